"""Every mask of a small space."""

from __future__ import annotations

from collections.abc import Iterator

from skipopt.errors import SearchError
from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MaskRegistry

MAX_MASKS = 2**20


class ExhaustiveSampler(BaseSampler):
    """Proposes all masks, the sparsest first. The seed has no effect.

    Raises:
        SearchError: the space holds more than 2^20 masks.
    """

    def __init__(self, space: MaskSpace, seed: int, registry: MaskRegistry | None = None) -> None:
        if space.size() > MAX_MASKS:
            raise SearchError(
                f"the exhaustive sampler visits at most {MAX_MASKS:,} masks, and "
                f"{len(space.free)} free sublayers give more",
                hint="freeze more sublayers, or use another --sampler such as auto",
            )
        super().__init__(space, seed, registry)

    def proposals(self) -> Iterator[SkipMask]:
        while (mask := self.registry.claim_sparsest()) is not None:
            yield mask
