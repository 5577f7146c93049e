"""Random search: the baseline for the other samplers."""

from __future__ import annotations

from collections.abc import Iterator

from skipopt.masks import SkipMask
from skipopt.samplers.base import BaseSampler


class RandomSampler(BaseSampler):
    """Draws how many sublayers to skip uniformly, unless that is fixed, and then which."""

    def proposals(self) -> Iterator[SkipMask]:
        while (mask := self.registry.claim_random()) is not None:
            yield mask
