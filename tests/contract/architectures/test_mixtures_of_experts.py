"""Mixtures of experts that draft with fewer of them decode the text of transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from support.experts import mixture, renamed_mixture

from skipopt.draft_config import DraftConfig
from skipopt.masks import SkipMask
from skipopt.methods import METHODS
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Statistics
from skipopt.runtime.load import make_target
from skipopt.testing import drafters as contract
from skipopt.testing.architectures import LONG, SHORT, ModelCase, decode
from skipopt.testing.drafters import PROMPTS, Case

pytestmark = pytest.mark.slow  # all of them together: minutes

NAMES = ("mixtral", "qwen2_moe", "deepseek_v3", "renamed")
# By type: the numbers of experts that drafts may have.
COUNTS = {"mixtral": (1,), "qwen2_moe": (1, 0), "deepseek_v3": (1, 0), "renamed": (1,)}
DRAFTED = [(name, count) for name, counts in COUNTS.items() for count in counts]
METHOD = {
    "layer-skip": "layer-skip:gamma=3",
    "cascade": "cascade:gamma=3:auto_disable=no:max_copy=2",
    "rsd-c": "rsd-c:branching=2-1",
    "rsd-s": "rsd-s:width=2:depth=2",
    "swift": "swift:max_depth=2:tau=0.3:auto_disable=no",
}


@cache
def case_of(name: str) -> ModelCase:
    return ModelCase(renamed_mixture() if name == "renamed" else mixture(name))


def profile_of(target: Target, experts: int, skipped: bool = False) -> Profile:
    mask = SkipMask.of(target.depth, [1] if skipped else [])
    return Profile.build(target, mask, gamma=3, tau=0.0, draft_config=DraftConfig(experts=experts))


@pytest.mark.parametrize(("name", "experts"), DRAFTED)
def test_the_text_is_that_of_transformers(name: str, experts: int) -> None:
    """With captured steps too, with options and with a profile that has a mask."""
    case = case_of(name)
    rounds = []
    for runtime in ("eager", "captured"):
        target = case.target(runtime)
        for prompt in (SHORT, LONG):
            found = decode(target, prompt, f"layer-skip:gamma=3:experts={experts}")
            case.assert_expected(prompt, found)
            rounds += found
            profile = profile_of(target, experts, skipped=True)
            case.assert_expected(prompt, decode(target, prompt, profile=profile))
            case.assert_expected(prompt, decode(target, prompt, "plain"))
        assert target.runtime.name == runtime
    statistics = Statistics.of(rounds)
    assert 0 < statistics.accepted < statistics.drafted


@pytest.mark.parametrize("name", METHOD)
def test_every_method_that_takes_draft_configs_keeps_the_contract(name: str) -> None:
    target = make_target(mixture("deepseek_v3"), None, runtime="captured")
    case = Case(target, METHOD[name], profile_of(target, 1))
    checks: list[Callable[[Case], None]] = [
        lambda case: contract.check_greedy_text(case, PROMPTS[:2]),
        lambda case: contract.check_sampled_text(case, PROMPTS[:1]),
        contract.check_end_of_text,
        contract.check_failure,
    ]
    for check in checks:
        check(case)


def test_these_are_all_methods_that_take_draft_configs() -> None:
    assert set(METHOD) == {name for name, each in METHODS.items() if each.takes_draft_config}
