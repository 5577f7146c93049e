"""What a study keeps its trials in, alone or with other workers.

Knows nothing of where trials are kept, of samplers, or of how a mask is scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from skipopt.cost_model.prediction import Prediction
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask


@dataclass(frozen=True, slots=True)
class Trial:
    """One scored mask.

    Attributes:
        value: what the sampler is told; higher is better.
        prediction: speed, γ and τ; None where a mask was valued in another way.
        draft_config: what else makes its drafts cheaper.
        pruned: the mask was scored on the first texts only, and `value` is an estimate.
        worker: who scored it, where several workers share a study.
    """

    mask: SkipMask
    value: float
    prediction: Prediction | None = None
    draft_config: DraftConfig = UNCHANGED
    pruned: bool = False
    worker: str | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Values of JSON; fields with their default are left out."""
        optional: dict[str, Any] = {
            "prediction": self.prediction and self.prediction.to_json(),
            "draft_config": self.draft_config and str(self.draft_config),
            "pruned": self.pruned,
            "worker": self.worker,
        }
        given = {key: value for key, value in optional.items() if value}
        return {"mask": str(self.mask), "value": self.value, **given}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], layers: int) -> Trial:
        """What `to_json` wrote.

        Args:
            layers: of the model, which the written mask does not name.
        """
        prediction = data.get("prediction")
        return cls(
            SkipMask.parse(data["mask"], layers),
            float(data["value"]),
            None if prediction is None else Prediction.from_json(prediction),
            DraftConfig.parse(data.get("draft_config", "none")),
            bool(data.get("pruned", False)),
            data.get("worker"),
        )


class TrialStorage(Protocol):
    """Trials of one study, and who is at which mask. Every mask is finished once."""

    @property
    def rank(self) -> int:
        """How many workers joined the study before us: each proposes from a seed of its own."""
        ...

    def trials(self) -> list[Trial]:
        """Every finished trial, of every worker, oldest first."""
        ...

    def news(self) -> list[Trial]:
        """Those finished by others since the last call of `trials` or `news`."""
        ...

    def claim(self, masks: Sequence[SkipMask]) -> list[SkipMask]:
        """Those that nobody else has finished or is scoring; ours until appended."""
        ...

    def abandoned(self) -> list[SkipMask]:
        """Masks claimed by a worker that shows no sign of life any more, or gave up; ours now."""
        ...

    def others_at_work(self) -> bool:
        """Whether results of others may still come in: a worker out of masks waits for them."""
        ...

    def append(self, trial: Trial) -> None:
        """Keep a finished trial before returning. Once per mask: a second one is dropped."""
        ...

    def close(self) -> None:
        """Give back what was claimed and is not finished; may be called twice."""
        ...


class SingleWorkerStorage:
    """A `TrialStorage`'s dealings with others, where there are none."""

    @property
    def rank(self) -> int:
        return 0

    def news(self) -> list[Trial]:
        return []

    def claim(self, masks: Sequence[SkipMask]) -> list[SkipMask]:
        return list(masks)

    def abandoned(self) -> list[SkipMask]:
        return []

    def others_at_work(self) -> bool:
        return False

    def close(self) -> None:
        return


class InMemoryStorage(SingleWorkerStorage):
    """A book that keeps nothing: a search nobody will resume."""

    def trials(self) -> list[Trial]:
        return []

    def append(self, trial: Trial) -> None:
        return
