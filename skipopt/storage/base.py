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
        sampler: who proposed it.
    """

    mask: SkipMask
    value: float
    prediction: Prediction | None = None
    draft_config: DraftConfig = UNCHANGED
    pruned: bool = False
    worker: str | None = field(default=None, compare=False)
    sampler: str | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Values of JSON; fields with their default are left out."""
        optional: dict[str, Any] = {
            "prediction": self.prediction and self.prediction.to_json(),
            "draft_config": self.draft_config and str(self.draft_config),
            "pruned": self.pruned,
            "worker": self.worker,
            "sampler": self.sampler,
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
            data.get("sampler"),
        )


class TrialStorage(Protocol):
    """The trials of one study, which other workers may add to."""

    @property
    def rank(self) -> int:
        """How many workers had joined before; offsets the sampler's seed."""
        ...

    def trials(self) -> list[Trial]:
        """Every finished trial of every worker, oldest first, one per mask."""
        ...

    def new_trials(self) -> list[Trial]:
        """Trials of other workers finished since the last call of this or of `trials`."""
        ...

    def claim(self, masks: Sequence[SkipMask]) -> list[SkipMask]:
        """Announce which masks this worker scores next.

        Replaces its last announcement.

        Returns:
            Those of `masks` that no other worker has announced.
        """
        ...

    def append(self, trial: Trial) -> None:
        """Add a finished trial; it is stored when this returns."""
        ...

    def close(self) -> None:
        """Withdraw the announcement; may be called twice."""
        ...


class InMemoryStorage:
    """The trials of one worker, lost when the process ends."""

    def __init__(self) -> None:
        self._trials: list[Trial] = []

    @property
    def rank(self) -> int:
        return 0

    def trials(self) -> list[Trial]:
        return list(self._trials)

    def new_trials(self) -> list[Trial]:
        return []

    def claim(self, masks: Sequence[SkipMask]) -> list[SkipMask]:
        return list(masks)

    def append(self, trial: Trial) -> None:
        self._trials.append(trial)

    def close(self) -> None:
        return
