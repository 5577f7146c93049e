"""The contract of a sampler as a pytest suite.

    from skipopt.testing.samplers import SamplerContract

    class TestMySampler(SamplerContract):
        def make_sampler(self, space, seed, registry):
            return MySampler(space, seed, registry)

The suite passes when the sampler proposes masks of its space only, none of them twice, visits a
small space completely and then ends, accepts values of masks that it never proposed, and repeats
with its seed in another process.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from random import Random

import pytest

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MaskRegistry

FROZEN = frozenset({0, 1, 6, 7})
SPACES = {
    "free count": MaskSpace(8, FROZEN),
    "fixed count": MaskSpace(8, FROZEN, skip_count=5),
}
SMALL_SPACES = {
    "free count": MaskSpace(3, frozenset({0, 5})),
    "fixed count": MaskSpace(3, frozenset({1}), skip_count=3),
    "nothing to skip": MaskSpace(4, skip_count=0),
    "everything to skip": MaskSpace(2, frozenset({1}), skip_count=3),
    "all frozen": MaskSpace(1, frozenset({0, 1})),
    "one kind": MaskSpace(3, frozenset({1, 3, 5})),
}
FAILURES = (float("nan"), float("-inf"), float("inf"))

# Runs the test module that defines the suites, as a script, and prints the histories of each, or
# the error of one that failed.
_HISTORIES = """
import json, runpy, sys
path, seed, *names = sys.argv[1:]
module, found = runpy.run_path(path), {}
for name in names:
    try:
        found[name] = module[name]().histories(int(seed))
    except Exception as error:
        found[name] = repr(error)
print(json.dumps(found))
"""

every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
every_small_space = pytest.mark.parametrize("space", SMALL_SPACES.values(), ids=SMALL_SPACES)


def objective(mask: SkipMask) -> float:
    """A sum over the skipped sublayers, with a term for skipped neighbors."""
    adjacent = sum(i + 1 in mask.skipped for i in mask.skipped)
    return sum(((7 * i) % 5 - 1.5) / 10 for i in mask.skipped) - 0.05 * adjacent


def optimize(sampler: BaseSampler, trials: int, batch: int) -> list[SkipMask]:
    """Ask and tell until so many trials are made or the sampler proposes no more; the masks."""
    asked: list[SkipMask] = []
    while len(asked) < trials and (masks := sampler.ask(min(batch, trials - len(asked)))):
        for mask in masks:
            sampler.tell(mask, objective(mask))
        asked += masks
    return asked


class SamplerContract(ABC):
    """Subclass it as `Test…`, at the top level of a module, and implement `make_sampler`.

    Attributes:
        trials: of one search in the tests; more than the sampler's fixed initial ones.
        uses_seed: whether another seed gives other masks within that many trials.
        asks_excluded_masks: whether the sampler may propose masks that cannot win, for what their
            values tell of others (`MaskRegistry.claim_for_information`).
    """

    trials: int = 24
    uses_seed: bool = True
    asks_excluded_masks: bool = False

    @abstractmethod
    def make_sampler(self, space: MaskSpace, seed: int, registry: MaskRegistry) -> BaseSampler:
        """A new sampler of that space, which claims its masks in `registry`."""

    def new(self, space: MaskSpace, seed: int = 0) -> BaseSampler:
        return self.make_sampler(space, seed, MaskRegistry(space, Random(seed)))

    def histories(self, seed: int) -> list[list[str]]:
        """The masks of one search of each space."""
        return [
            [str(mask) for mask in optimize(self.new(space, seed), self.trials, batch=4)]
            for space in SPACES.values()
        ]

    @every_space
    def test_masks_are_in_the_space_and_never_repeat(self, space: MaskSpace) -> None:
        sampler = self.new(space)
        rng = Random(1)
        told = [space.random(rng) for _ in range(3)]
        for mask in told:
            sampler.tell(mask, objective(mask))
        asked = optimize(sampler, self.trials, batch=5)
        assert len(asked) == self.trials
        assert all(mask in space for mask in asked)
        assert len({*asked, *told}) == self.trials + len({*told})

    @every_space
    def test_batches_are_full_and_distinct_before_any_value_is_told(
        self, space: MaskSpace
    ) -> None:
        sampler = self.new(space)
        first, second = sampler.ask(8), sampler.ask(8)
        assert len({*first, *second}) == 16
        assert sampler.ask(0) == []

    @every_small_space
    @pytest.mark.parametrize("batch", [1, 3])
    def test_a_small_space_is_exhausted(self, space: MaskSpace, batch: int) -> None:
        sampler = self.new(space)
        asked = optimize(sampler, space.size() + 1, batch)
        assert len(asked) == len(set(asked)) == space.size()
        assert sampler.ask(4) == []

    @every_space
    def test_masks_that_were_never_asked_can_be_told(self, space: MaskSpace) -> None:
        rng = Random(3)
        known = list(dict.fromkeys(space.random(rng) for _ in range(20)))
        sampler = self.new(space)
        for mask in [*known, known[0]]:  # one of them twice
            sampler.tell(mask, objective(mask))
        assert not set(optimize(sampler, 12, batch=4)) & set(known)

    @every_space
    def test_failed_foreign_and_unanswered_masks_are_accepted(self, space: MaskSpace) -> None:
        sampler = self.new(space)
        sampler.tell(SkipMask.of(8, attention=[0]), 9.0)  # frozen
        sampler.tell(SkipMask.empty(8), 0.0)
        pending = sampler.ask(6)
        for mask, failure in zip(pending, FAILURES, strict=False):
            sampler.tell(mask, failure)
        asked = optimize(sampler, 12, batch=4)
        assert len(set(asked)) == 12
        assert not {*pending, SkipMask.empty(8)} & set(asked)

    @every_space
    def test_equal_values_are_accepted(self, space: MaskSpace) -> None:
        sampler = self.new(space)
        for _ in range(3):
            masks = sampler.ask(5)
            assert len(masks) == 5
            for mask in masks:
                sampler.tell(mask, 1.0)

    def test_masks_hold_plain_python_values(self) -> None:
        for mask in optimize(self.new(SPACES["free count"]), 14, batch=7):
            assert type(mask) is SkipMask
            assert type(mask.layers) is int
            assert type(mask.skipped) is frozenset
            assert all(type(position) is int for position in mask.skipped)

    def test_the_same_seed_gives_the_same_masks_in_another_process(self) -> None:
        module, own = sys.modules[type(self).__module__], type(self).__name__
        names = {own, *(name for name, value in vars(module).items() if _is_suite(name, value))}
        found = _histories_elsewhere(inspect.getfile(type(self)), tuple(sorted(names)), 7)
        assert found[own] == self.histories(7)

    def test_another_seed_gives_other_masks(self) -> None:
        if not self.uses_seed:
            pytest.skip("the first trials of this sampler do not depend on the seed")
        for one, other in zip(self.histories(1), self.histories(2), strict=True):
            assert one != other

    def test_masks_that_cannot_win_are_not_asked(self) -> None:
        """Apart from changes of one sublayer, if the sampler asks for those."""
        space = MaskSpace(3, frozenset({0, 5}))  # 16 masks
        registry = MaskRegistry(space, Random(0), lambda mask: len(mask.skipped) + 0.5)
        sampler = self.make_sampler(space, 0, registry)
        sampler.tell(SkipMask.of(3, attention=[1, 2]), 2.0)
        asked: list[SkipMask] = []
        while masks := sampler.ask(3):
            asked += masks
            for mask in masks:
                sampler.tell(mask, 0.1 * len(mask.skipped))
        can_win = [mask for mask in asked if len(mask.skipped) > 1]
        assert len(can_win) == len(set(can_win)) == 10  # of 11, and one was told
        assert self.asks_excluded_masks or can_win == asked


def _is_suite(name: str, value: object) -> bool:
    return (
        name.startswith("Test") and isinstance(value, type) and issubclass(value, SamplerContract)
    )


@cache
def _histories_elsewhere(path: str, names: tuple[str, ...], seed: int) -> dict[str, object]:
    """The histories of suites in another process, one for all suites of a module; by name."""
    done = subprocess.run(
        [sys.executable, "-c", _HISTORIES, path, str(seed), *names],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path.cwd(),
        env=os.environ | {"PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found
