"""The interface of a sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import chain, islice
from random import Random

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.dedup import MaskRegistry
from skipopt.samplers.initial_masks import start_mask


class BaseSampler(ABC):
    """Proposes masks of one `MaskSpace` and learns from their values; higher values are better.

    A subclass implements `proposals`. It must be deterministic: the same seed and the same calls
    give the same masks, in any process. `skipopt.testing.samplers.SamplerContract` tests that.

    Args:
        space: the masks that may be proposed.
        seed: of everything drawn at random.
        registry: claimed masks and their values. May be shared with another sampler that is told
            the same values; a new one by default.
    """

    def __init__(self, space: MaskSpace, seed: int, registry: MaskRegistry | None = None) -> None:
        self.space = space
        self.registry = MaskRegistry(space, Random(seed)) if registry is None else registry

    def ask(self, count: int) -> list[SkipMask]:
        """Up to `count` distinct masks of the space, none of which was asked or told before.

        Fewer masks, or none, are returned only when no others are left whose upper bound reaches
        the best known value.
        """
        return list(islice(chain(self.proposals(), self._remaining()), max(count, 0)))

    def tell(self, mask: SkipMask, value: float) -> None:
        """Record the value of a mask.

        The mask need not have been asked: initial masks, the trials of a resumed study and those
        of other workers are told too. A value that is not finite marks the mask as evaluated and
        teaches nothing else.
        """
        self.registry.record(mask, value)

    def proposer(self, mask: SkipMask) -> str | None:
        """Name of the part of this sampler that proposed a mask; None where there are no parts."""
        return None

    @abstractmethod
    def proposals(self) -> Iterator[SkipMask]:
        """The masks to evaluate next, each claimed in `registry` just before it is yielded.

        Called anew by every `ask`, which consumes only as many as it needs. It may end at any
        point: `ask` then goes on with unclaimed masks near the best one.
        """

    def _remaining(self) -> Iterator[SkipMask]:
        """Unclaimed masks, neighbors of the best one first, until the space is exhausted."""
        center = self.registry.best or start_mask(self.space)
        while (mask := self.registry.claim_neighbor(center)) is not None:
            yield mask
