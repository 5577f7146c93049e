"""What every sampler keeps to, whatever it searches with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from random import Random

import pytest

from skipopt.errors import SearchError, UsageError
from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.context import SamplerContext
from skipopt.samplers.registry import NEED_CONTEXT, SAMPLERS, make_sampler

FROZEN = frozenset({0, 1, 6, 7})
SPACES = {
    "free": MaskSpace(8, FROZEN),
    "fixed": MaskSpace(8, FROZEN, skip_count=5),
}
TINY = {
    "free": MaskSpace(3, frozenset({0, 5})),
    "fixed": MaskSpace(3, frozenset({1}), skip_count=3),
    "nothing to skip": MaskSpace(4, skip_count=0),
    "everything to skip": MaskSpace(2, frozenset({1}), skip_count=3),
    "all frozen": MaskSpace(1, frozenset({0, 1})),
    "one kind": MaskSpace(3, frozenset({1, 3, 5})),
}
AUTO_WITH_MODEL = "auto with a model"
NAMES = (*SAMPLERS, AUTO_WITH_MODEL)
# Their first trials do not depend on the seed.
SEEDLESS = {"exhaustive", "leave-one-out", "greedy", "dp", "auto", AUTO_WITH_MODEL}
TRIALS = dict.fromkeys(NAMES, 24) | {"gp": 12}  # past the ten starts; gp is slow
LEARNERS = {
    "leave-one-out",
    "greedy",
    "auto",
    AUTO_WITH_MODEL,
}  # ask single skips for what they teach
LOADS_TORCH = {"gp", AUTO_WITH_MODEL} | NEED_CONTEXT

HISTORY = """
import json, runpy, sys
path, name, kind = sys.argv[1:]
suite = runpy.run_path(path)
json.dump(suite["history"](name, suite["SPACES"][kind], 7), sys.stdout)
"""

IMPORTS = """
import sys
from skipopt.masks import MaskSpace
from skipopt.samplers.registry import make_sampler
sampler = make_sampler(sys.argv[1], MaskSpace(3), 0)
for _ in range(3):
    for mask in sampler.ask(5):
        sampler.tell(mask, float(len(mask.skipped)))
print("torch" in sys.modules)
"""

every_sampler = pytest.mark.parametrize("name", NAMES)
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


@cache
def sampler_context(layers: int) -> SamplerContext:
    """A tiny random model of so many layers, and what it says."""
    from support.tiny import hf_greedy, tiny_llama, tiny_prompts, tiny_target

    from skipopt.cost_model.costs import Costs
    from skipopt.scoring import ScoredText

    target = tiny_target(tiny_llama(layers))
    texts = [ScoredText((*p, *hf_greedy(target, p, 6)), len(p)) for p in tiny_prompts(3)]
    return SamplerContext(target, tuple(texts), Costs(0.1, 0.2, 0.1, 0.01, (3.0, 3.1, 3.2, 3.4)))


def make(name: str, space: MaskSpace, seed: int) -> BaseSampler:
    """The sampler as a study would make it, with a model where it looks at one."""
    if name == AUTO_WITH_MODEL:
        return make_sampler("auto", space, seed, sampler_context(space.layers))
    return make_sampler(
        name, space, seed, sampler_context(space.layers) if name in NEED_CONTEXT else None
    )


def value(mask: SkipMask) -> float:
    """Any objective: a sum over sublayers, and a term for neighbours."""
    adjacent = sum(i + 1 in mask.skipped for i in mask.skipped)
    return sum(((7 * i) % 5 - 1.5) / 10 for i in mask.skipped) - 0.05 * adjacent


def drive(sampler: BaseSampler, trials: int, batch: int) -> list[SkipMask]:
    """Ask and tell until so many trials, or none are left."""
    asked: list[SkipMask] = []
    while len(asked) < trials and (masks := sampler.ask(min(batch, trials - len(asked)))):
        for mask in masks:
            sampler.tell(mask, value(mask))
        asked += masks
    return asked


def history(name: str, space: MaskSpace, seed: int) -> list[str]:
    return [str(mask) for mask in drive(make(name, space, seed), TRIALS[name], batch=4)]


def run_python(code: str, *arguments: str, hash_seed: str = "0") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stderr == ""
    return done.stdout


@every_sampler
@every_space
def test_masks_are_of_the_space_and_never_repeat(name: str, space: MaskSpace) -> None:
    sampler = make(name, space, 0)
    rng = Random(1)
    told = [space.random(rng) for _ in range(3)]
    for mask in told:
        sampler.tell(mask, value(mask))
    asked = drive(sampler, TRIALS[name], batch=5)
    assert len(asked) == TRIALS[name]
    assert all(mask in space for mask in asked)
    assert len(set(asked)) == TRIALS[name]
    assert not set(asked) & set(told)


@every_sampler
@every_space
def test_a_batch_is_full_of_distinct_masks(name: str, space: MaskSpace) -> None:
    sampler = make(name, space, 0)
    first, second = sampler.ask(8), sampler.ask(8)  # nothing told in between
    assert len({*first, *second}) == 16
    assert sampler.ask(0) == []


@every_sampler
@pytest.mark.parametrize("space", TINY.values(), ids=TINY)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_small_space_is_covered_then_over(name: str, space: MaskSpace, batch: int) -> None:
    if name == "gp" and batch == 1:
        pytest.skip("the same code, and slow")
    sampler = make(name, space, 0)
    asked = drive(sampler, space.size() + 1, batch)
    assert len(asked) == len(set(asked)) == space.size()
    assert sampler.ask(4) == []


@every_sampler
@every_space
def test_masks_never_asked_can_be_told(name: str, space: MaskSpace) -> None:
    known = drive(make("random", space, 3), 20, batch=20)
    sampler = make(name, space, 0)
    for mask in known:
        sampler.tell(mask, value(mask))
    sampler.tell(known[0], value(known[0]))
    assert not set(drive(sampler, 12, batch=4)) & set(known)


@every_sampler
@every_space
def test_failed_outside_and_unanswered_masks_do_no_harm(name: str, space: MaskSpace) -> None:
    sampler = make(name, space, 0)
    sampler.tell(SkipMask.of(8, attention=[0]), 9.0)
    sampler.tell(SkipMask.empty(8), 0.0)
    failed = sampler.ask(6)
    for mask, bad in zip(failed, [float("nan"), float("-inf"), float("inf")], strict=False):
        sampler.tell(mask, bad)
    asked = drive(sampler, 12, batch=4)
    assert len(set(asked)) == 12
    assert not {*failed, SkipMask.empty(8)} & set(asked)


@every_sampler
@every_space
def test_values_that_are_all_equal_do_no_harm(name: str, space: MaskSpace) -> None:
    sampler = make(name, space, 0)
    for _ in range(3):
        for mask in sampler.ask(5):
            sampler.tell(mask, 1.0)


@every_sampler
def test_masks_hold_plain_python_values(name: str) -> None:
    for mask in drive(make(name, SPACES["free"], 0), 14, batch=7):
        assert type(mask) is SkipMask
        assert type(mask.layers) is int
        assert type(mask.skipped) is frozenset
        assert all(type(position) is int for position in mask.skipped)


@every_sampler
@pytest.mark.parametrize("kind", SPACES)
def test_same_seed_gives_the_same_trials_in_another_process(name: str, kind: str) -> None:
    here = history(name, SPACES[kind], 7)
    assert json.loads(run_python(HISTORY, __file__, name, kind, hash_seed="123")) == here


@pytest.mark.parametrize("name", sorted(set(NAMES) - SEEDLESS))
@every_space
def test_another_seed_gives_other_trials(name: str, space: MaskSpace) -> None:
    assert history(name, space, 1) != history(name, space, 2)


@pytest.mark.parametrize("name", sorted(set(NAMES) - LOADS_TORCH))
def test_torch_is_not_imported(name: str) -> None:
    assert run_python(IMPORTS, name).strip() == "False"


def test_optuna_keeps_the_verbosity_it_had() -> None:
    from optuna import logging

    before = logging.get_verbosity()
    make_sampler("tpe", SPACES["free"], 0)
    assert logging.get_verbosity() == before


def test_an_unknown_name_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match="'anneal'") as caught:
        make_sampler("anneal", SPACES["free"], 0)
    assert all(name in str(caught.value.hint) for name in SAMPLERS)


def test_a_space_too_large_to_exhaust_is_refused() -> None:
    with pytest.raises(SearchError, match=r"1,048,576") as caught:
        make_sampler("exhaustive", MaskSpace(80), 0)
    assert caught.value.hint


@pytest.mark.parametrize("name", sorted(NEED_CONTEXT))
def test_a_sampler_that_looks_at_the_model_is_refused_without_one(name: str) -> None:
    with pytest.raises(UsageError, match="looks at the model") as caught:
        make_sampler(name, SPACES["free"], 0)
    assert "auto" in str(caught.value.hint)


@every_sampler
def test_masks_that_cannot_win_are_never_asked(name: str) -> None:
    """But for single changes to the start mask: they are asked for what they teach."""
    space = MaskSpace(3, frozenset({0, 5}))  # 16 masks
    model = sampler_context(3) if name in LOADS_TORCH - {"gp"} else None
    known = name.removesuffix(" with a model")

    def bound(mask: SkipMask) -> float:
        return len(mask.skipped) + 0.5

    sampler = make_sampler(known, space, 0, model, bound)
    sampler.tell(SkipMask.of(3, attention=[1, 2]), 2.0)
    asked: list[SkipMask] = []
    while masks := sampler.ask(3):
        asked += masks
        for mask in masks:
            sampler.tell(mask, 0.1 * len(mask.skipped))
    dense = [mask for mask in asked if len(mask.skipped) > 1]
    assert len(dense) == len(set(dense)) == 10  # of 11, and one was told
    if name not in LEARNERS:
        assert dense == asked
