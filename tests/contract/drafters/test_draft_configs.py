"""Every drafter that drafts with a draft config keeps the contract with each of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import pytest
from support.drafter_contract import small_target
from support.kernel_timings import prefer_quantized
from support.tiny import tiny_llama, tiny_target

from skipopt.draft_config import DraftConfig
from skipopt.draft_vocabulary import DraftVocabulary
from skipopt.errors import DraftConfigWarning
from skipopt.masks import SkipMask
from skipopt.methods import METHODS
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Statistics
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import PROMPTS, Case, run

IDS = [0, 1, 2, 3, 7, 11, 12, 13, 30, 41, 42, 63]
VOCABULARY = DraftVocabulary.of(IDS)
INT8 = DraftConfig(weight_bits=8)
MIXED = DraftConfig(weight_bits=4, head_bits=8, int8_layers=(0,))
SHORT = DraftConfig(attention_window=2)
EVERYTHING = replace(INT8, attention_window=3, vocab_size=len(IDS), vocabulary=VOCABULARY)
# By method: options for drafts of γ tokens or levels in every round.
ALWAYS = {
    "layer-skip": "gamma={gamma}",
    "cascade": "gamma={gamma}:auto_disable=no:max_copy=2",
    "rsd-c": "branching={branching}",
    "rsd-s": "width=2:depth={gamma}",
    "swift": "max_depth={gamma}:tau=0.3:auto_disable=no:score_tokens=4:search_overhead=1.0",
}
every_method = pytest.mark.parametrize("name", ALWAYS)


@pytest.fixture(autouse=True)
def quantized_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    prefer_quantized(monkeypatch)
    warnings.simplefilter("error", DraftConfigWarning)


@pytest.fixture(scope="module")
def eager() -> Target:
    return small_target()


@pytest.fixture(scope="module")
def target() -> Target:
    """On the native kernels where they are installed, else with captured steps."""
    return tiny_target(tiny_llama(layers=3, context=256, vocabulary=64), runtime="native")


def method_of(name: str, gamma: int = 3) -> str:
    branching = "-".join(["2", "1", "2", "1"][:gamma])
    return f"{name}:{ALWAYS[name].format(gamma=gamma, branching=branching)}"


def case_of(
    target: Target, name: str, config: DraftConfig, skipped: Sequence[int] = (1,), gamma: int = 3
) -> Case:
    mask = SkipMask.of(target.depth, skipped)
    profile = Profile.build(target, mask, gamma=gamma, tau=0.0, draft_config=config)
    return Case(target, method_of(name, gamma), profile)


def test_every_method_that_takes_a_draft_config_is_covered() -> None:
    assert set(ALWAYS) == {name for name, each in METHODS.items() if each.takes_draft_config}


@every_method
@pytest.mark.parametrize("config", [INT8, SHORT, EVERYTHING], ids=str)
def test_text_and_cache_are_those_of_plain_decoding(
    target: Target, name: str, config: DraftConfig
) -> None:
    case = case_of(target, name, config)
    contract.check_commit(case, PROMPTS[:1])
    contract.check_sampled_text(case, PROMPTS[:1])


@every_method
@pytest.mark.parametrize("config", [MIXED, SHORT], ids=str)
def test_text_is_the_same_without_native_kernels(
    eager: Target, name: str, config: DraftConfig
) -> None:
    contract.check_greedy_text(case_of(eager, name, config), PROMPTS[:2])


@every_method
def test_drawn_rounds_limits_and_failures(target: Target, name: str) -> None:
    case = case_of(target, name, EVERYTHING)
    contract.check_rejection(case)
    contract.check_drawn_rounds(case)
    contract.check_limits(case)
    contract.check_failure(case)


@every_method
@pytest.mark.parametrize("gamma", [1, 2, 4])
def test_texts_end_inside_drafts_of_every_length(target: Target, name: str, gamma: int) -> None:
    """At an end-of-text token and at the last token asked for, without a skipped sublayer."""
    case = case_of(target, name, EVERYTHING, (), gamma)
    contract.check_end_of_text(case)
    contract.check_budget(case)


@every_method
def test_no_profile_is_needed(target: Target, name: str) -> None:
    case = Case(target, f"{method_of(name)}:quant=int8:vocab=9")
    contract.check_greedy_text(case, PROMPTS[:2])


@every_method
@pytest.mark.parametrize("config", [SHORT, EVERYTHING], ids=str)
def test_some_drafts_are_rejected_and_some_accepted(name: str, config: DraftConfig) -> None:
    target = tiny_target(tiny_llama(layers=3, gain=3.0), runtime="native")
    case = case_of(target, name, config, ())
    rounds = [each for prompt in PROMPTS[:3] for each in run(case, prompt)]
    drafted = {token for each in rounds for token in each.drafted}
    found = Statistics.of(rounds)
    assert 0 < found.accepted < found.drafted
    if config.vocabulary is not None and name != "cascade":  # it copies other tokens too
        assert drafted <= set(IDS)


@pytest.mark.parametrize("name", ["rsd-c", "rsd-s", "cascade"])
def test_an_exit_layer_takes_options_and_no_config_of_the_profile(name: str) -> None:
    target = small_target()
    case = case_of(target, name, INT8)
    for options in ("exit_layer=1", "exit_layer=2:quant=int8:window=3"):
        contract.check_greedy_text(
            Case(target, f"{case.method}:{options}", case.profile), PROMPTS[:2]
        )
    assert target.runtime.quantized.extra_bytes > 0


@every_method
def test_nothing_is_drafted_where_the_draft_would_be_the_target(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipopt.kernels import quantized_linear

    monkeypatch.setattr(quantized_linear, "KERNELS", {8: (), 4: ()})
    target = small_target()
    with pytest.warns(DraftConfigWarning, match="drafts do without int8"):
        rounds = run(case_of(target, name, INT8, ()), PROMPTS[0])
    assert all(each.draft_forwards == 0 for each in rounds)
