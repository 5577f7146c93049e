"""Every sampler of the package under the contract, and how samplers are found by name."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import pytest

from skipopt.errors import SearchError, UsageError
from skipopt.masks import MaskSpace
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.context import SamplerContext
from skipopt.samplers.dedup import MaskRegistry
from skipopt.samplers.registry import NEED_CONTEXT, SAMPLERS, make_sampler, sampler_factory
from skipopt.testing.samplers import SamplerContract

SPACE = MaskSpace(8)
IMPORT_TORCH = {"gp"} | NEED_CONTEXT

ASK_AND_TELL = """
import sys
from skipopt.masks import MaskSpace
from skipopt.samplers.registry import make_sampler
sampler = make_sampler(sys.argv[1], MaskSpace(3), 0)
for _ in range(3):
    for mask in sampler.ask(5):
        sampler.tell(mask, float(len(mask.skipped)))
print("torch" in sys.modules)
"""


@cache
def small_context(layers: int) -> SamplerContext:
    """A small random model of so many layers, and texts that it wrote."""
    from support.tiny import hf_greedy, tiny_llama, tiny_prompts, tiny_target

    from skipopt.cost_model.costs import Costs
    from skipopt.scoring import ScoredText

    target = tiny_target(tiny_llama(layers))
    texts = [ScoredText((*p, *hf_greedy(target, p, 6)), len(p)) for p in tiny_prompts(3)]
    return SamplerContext(target, tuple(texts), Costs(0.1, 0.2, 0.1, 0.01, (3.0, 3.1, 3.2, 3.4)))


class Named(SamplerContract):
    """A sampler of the package.

    Attributes:
        with_model: whether it is given a model.
    """

    name: str
    with_model: bool = False

    def make_sampler(self, space: MaskSpace, seed: int, registry: MaskRegistry) -> BaseSampler:
        context = small_context(space.layers) if self.with_model else None
        return sampler_factory(self.name, context)(space, seed, registry)


class TestAuto(Named):
    name = "auto"
    uses_seed = False
    asks_excluded_masks = True


class TestAutoWithModel(TestAuto):
    with_model = True


class TestRandom(Named):
    name = "random"


class TestBayes(Named):
    name = "bayes"


class TestTpe(Named):
    name = "tpe"


class TestGp(Named):
    name = "gp"
    trials = 12  # slow


class TestGreedy(Named):
    name = "greedy"
    uses_seed = False
    asks_excluded_masks = True


class TestLocalSearch(Named):
    name = "local-search"


class TestLeaveOneOut(Named):
    name = "leave-one-out"
    uses_seed = False
    asks_excluded_masks = True


class TestSwift(Named):
    name = "swift"


class TestDp(Named):
    name = "dp"
    with_model = True
    uses_seed = False


class TestExhaustive(Named):
    name = "exhaustive"
    uses_seed = False


def test_every_sampler_has_a_contract_suite() -> None:
    classes = [value for value in globals().values() if isinstance(value, type)]
    tested = {c.name for c in classes if issubclass(c, Named) and c is not Named}
    assert tested == set(SAMPLERS)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - IMPORT_TORCH))
def test_torch_is_not_imported_and_nothing_is_printed(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK_AND_TELL, name],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_optuna_keeps_the_verbosity_it_had() -> None:
    from optuna import logging

    before = logging.get_verbosity()
    make_sampler("tpe", SPACE, 0)
    assert logging.get_verbosity() == before


def test_an_unknown_name_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match="'anneal'") as caught:
        make_sampler("anneal", SPACE, 0)
    assert all(name in str(caught.value.hint) for name in SAMPLERS)


def test_a_space_too_large_to_exhaust_is_refused() -> None:
    with pytest.raises(SearchError, match=r"1,048,576") as caught:
        make_sampler("exhaustive", MaskSpace(80), 0)
    assert caught.value.hint


@pytest.mark.parametrize("name", sorted(NEED_CONTEXT))
def test_a_sampler_that_runs_the_model_is_refused_without_one(name: str) -> None:
    with pytest.raises(UsageError, match="runs the model") as caught:
        make_sampler(name, SPACE, 0)
    assert "auto" in str(caught.value.hint)
