"""The contract suite of samplers fails for samplers that break it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MaskRegistry
from skipopt.testing.samplers import SPACES, SamplerContract

SPACE = SPACES["fixed count"]
SMALL = MaskSpace(2)


class Repeating(BaseSampler):
    """Does not claim the masks it proposes."""

    def proposals(self) -> Iterator[SkipMask]:
        while True:
            yield self.space.random(Random(0))


class Unfrozen(BaseSampler):
    """Skips frozen sublayers."""

    def proposals(self) -> Iterator[SkipMask]:
        yield SkipMask.of(self.space.layers, attention=[0])


class Impatient(BaseSampler):
    """Ends before the space is exhausted."""

    def ask(self, count: int) -> list[SkipMask]:
        return super().ask(count) if len(self.registry) < 5 else []

    def proposals(self) -> Iterator[SkipMask]:
        return iter(())


class Unseeded(BaseSampler):
    """Depends on the process it runs in."""

    def proposals(self) -> Iterator[SkipMask]:
        masks = (self.space.random(Random(hash(str(i)))) for i in range(100))
        return filter(self.registry.claim, masks)


class Suite(SamplerContract):
    sampler: type[BaseSampler]

    def make_sampler(self, space: MaskSpace, seed: int, registry: MaskRegistry) -> BaseSampler:
        return self.sampler(space, seed, registry)


class UnseededSuite(Suite):
    sampler = Unseeded


@pytest.mark.parametrize(
    ("sampler", "check"),
    [
        (Repeating, lambda suite: suite.test_masks_are_in_the_space_and_never_repeat(SPACE)),
        (Unfrozen, lambda suite: suite.test_masks_are_in_the_space_and_never_repeat(SPACE)),
        (Impatient, lambda suite: suite.test_a_small_space_is_exhausted(SMALL, 3)),
    ],
)
def test_a_sampler_that_breaks_the_contract_fails(
    sampler: type[BaseSampler], check: Callable[[SamplerContract], None]
) -> None:
    suite = Suite()
    suite.sampler = sampler
    with pytest.raises(AssertionError):
        check(suite)


def test_masks_that_depend_on_the_process_fail() -> None:
    with pytest.raises(AssertionError):
        UnseededSuite().test_the_same_seed_gives_the_same_masks_in_another_process()
