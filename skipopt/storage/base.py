"""What a study keeps its trials in, alone or with other workers.

Knows nothing of where trials are kept, of samplers, or of how a mask is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from skipopt.draft_config import DraftConfig
from skipopt.masks import SkipMask


@dataclass(frozen=True, slots=True)
class Trial:
    """One scored mask: the value the sampler was told, and what else is known of it."""

    mask: SkipMask
    value: float
    facts: dict[str, Any]

    @property
    def draft_config(self) -> DraftConfig:
        """What its drafts are made with beside the mask."""
        return DraftConfig.parse(self.facts.get("draft_config", "none"))


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
