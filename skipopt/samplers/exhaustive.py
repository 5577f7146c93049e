"""Every mask of a small space, sparse ones first. Learns nothing from values."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from skipopt.errors import SearchError
from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.dedup import MaskRegistry, take

LIMIT = 2**20


class ExhaustiveSampler:
    """All masks in a fixed order; the seed changes nothing.

    Raises:
        SearchError: the space holds more than 2^20 masks.
    """

    def __init__(self, space: MaskSpace, seed: int, visited: MaskRegistry | None = None) -> None:
        if space.size() > LIMIT:
            raise SearchError(
                f"the exhaustive sampler visits at most {LIMIT:,} masks, and "
                f"{len(space.free)} free sublayers give more",
                hint="freeze more sublayers, or use another --sampler such as auto",
            )
        self._visited = MaskRegistry(space, Random(seed)) if visited is None else visited

    def ask(self, count: int) -> list[SkipMask]:
        return take(self._proposals(), count)

    def tell(self, mask: SkipMask, value: float) -> None:
        self._visited.record(mask, value)

    def _proposals(self) -> Iterator[SkipMask]:
        while (mask := self._visited.sweep()) is not None:
            yield mask
