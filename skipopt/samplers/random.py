"""Masks at random: the yardstick for the other samplers. Learns nothing from values."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.dedup import MaskRegistry, take


class RandomSampler:
    """First how many sublayers to skip, uniformly (unless fixed), then which."""

    def __init__(self, space: MaskSpace, seed: int, visited: MaskRegistry | None = None) -> None:
        self._visited = MaskRegistry(space, Random(seed)) if visited is None else visited

    def ask(self, count: int) -> list[SkipMask]:
        return take(self._proposals(), count)

    def tell(self, mask: SkipMask, value: float) -> None:
        self._visited.record(mask, value)

    def _proposals(self) -> Iterator[SkipMask]:
        while (mask := self._visited.random()) is not None:
            yield mask
