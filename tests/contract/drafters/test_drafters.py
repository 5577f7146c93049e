"""Every drafter passes the contract suite, and drafts are both accepted and rejected."""

from __future__ import annotations

from inspect import signature

import pytest
from support import architectures, drafter_contract
from support.drafters import SETTINGS, Bench
from support.native import needs_native
from support.tiny import tiny_gpt2, tiny_target

from skipopt.drafting.registry import drafter_class, make_drafter
from skipopt.errors import UsageError
from skipopt.methods import MethodSpec, parse_method
from skipopt.rounds import Statistics
from skipopt.runtime.load import make_target
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import PROMPTS, End, run

MAIN = tuple(settings[0] for settings in SETTINGS.values())


OTHERS = tuple(text for settings in SETTINGS.values() for text in settings[1:])


DRAFTING = tuple(text for text in MAIN if text != "plain")


every_method = pytest.mark.parametrize("method", MAIN)


every_drafting = pytest.mark.parametrize("method", DRAFTING)


every_other_setting = pytest.mark.parametrize("method", OTHERS)


@pytest.fixture(scope="module", params=["captured", pytest.param("native", marks=needs_native)])
def graphs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The same weights, with every step captured at once."""
    return Bench(tiny_target(runtime=request.param), tmp_path_factory.mktemp("graphs"))


@pytest.fixture(scope="module")
def bytes_model(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(drafter_contract.small_target(vocabulary=257), tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    target = tiny_target(tiny_gpt2(layers=3, context=24))
    return Bench(target, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(drafter_contract.small_target(context=14), tmp_path_factory.mktemp("short"))


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    target = make_target(architectures.build("mistral"), None, runtime="eager")
    return Bench(target, tmp_path_factory.mktemp("mistral"))


@every_method
def test_greedy_text_is_that_of_plain_decoding(llama: Bench, method: str) -> None:
    contract.check_greedy_text(llama.case(method))


@every_method
def test_captured_steps_change_no_token(
    request: pytest.FixtureRequest, graphs: Bench, llama: Bench, method: str
) -> None:
    case = graphs.case(method)
    for prompt in PROMPTS[:6]:
        expected = contract.plain(llama.target, tuple(prompt))
        assert contract.text_of(case, prompt) == expected
    contract.check_sampled_text(case, PROMPTS[:3])
    contract.check_end_of_text(case)
    contract.check_commit(case)
    assert graphs.target.runtime.name == request.node.callspec.params["graphs"], (
        graphs.target.runtime.step_caches.unsupported_reason
    )
    assert graphs.target.runtime.step_caches.num_captured


@every_method
def test_cache_that_users_get_is_large_enough(llama: Bench, method: str) -> None:
    contract.check_public_way(llama.case(method))


@every_other_setting
def test_greedy_text_is_the_same_with_other_settings(llama: Bench, method: str) -> None:
    contract.check_greedy_text(llama.case(method), PROMPTS[:4])


@every_method
def test_sampled_text_is_that_of_plain_sampling_when_drafts_are_matched(
    llama: Bench, method: str
) -> None:
    contract.check_sampled_text(llama.case(method))


@every_other_setting
def test_sampled_text_is_the_same_with_other_settings(llama: Bench, method: str) -> None:
    contract.check_sampled_text(llama.case(method), PROMPTS[5:6])


@every_method
def test_rejection_emits_the_only_possible_token(llama: Bench, method: str) -> None:
    contract.check_rejection(llama.case(method))


@every_method
def test_rounds_of_drawn_text_are_in_order(llama: Bench, method: str) -> None:
    contract.check_drawn_rounds(llama.case(method))


@every_method
def test_end_of_text_ends_it_inside_a_draft(llama: Bench, method: str) -> None:
    contract.check_end_of_text(llama.case(method))


@every_method
def test_stop_strings_end_the_text_inside_a_draft(bytes_model: Bench, method: str) -> None:
    drafter_contract.check_stop_strings(bytes_model.case(method))


@every_method
def test_budget_is_met_exactly(llama: Bench, method: str) -> None:
    contract.check_budget(llama.case(method))


@every_method
def test_text_continues_to_the_end_of_the_context(short: Bench, method: str) -> None:
    contract.check_context_end(short.case(method))


@every_method
def test_the_cache_equals_a_fresh_prefill_after_every_round(llama: Bench, method: str) -> None:
    contract.check_commit(llama.case(method))


@every_other_setting
def test_the_cache_equals_a_fresh_prefill_with_other_settings(llama: Bench, method: str) -> None:
    contract.check_commit(llama.case(method), PROMPTS[6:7])


@every_method
def test_drafts_keep_to_the_limit(llama: Bench, method: str) -> None:
    contract.check_limits(llama.case(method))


@every_other_setting
def test_drafts_keep_to_the_limit_with_other_settings(llama: Bench, method: str) -> None:
    contract.check_limits(llama.case(method))


@every_method
def test_failure_leaves_no_trace(llama: Bench, method: str) -> None:
    contract.check_failure(llama.case(method))


@every_method
def test_numbers_out_of_range_are_refused(llama: Bench, method: str) -> None:
    """Any integer is a valid seed."""
    case = llama.case(method)
    spec = parse_method(case.method)
    parameters = signature(drafter_class(spec)).parameters.values()
    counts = [p.name for p in parameters if str(p.annotation) == "int" and p.name != "seed"]
    for name in counts:
        wrong = MethodSpec(spec.name, {**spec.options, name: "-1"})
        with pytest.raises(UsageError):
            make_drafter(case.target, wrong, case.profile)


@every_drafting
def test_learned_positions_up_to_the_last_one(gpt2: Bench, method: str) -> None:
    """GPT-2 raises an index error for a row beyond its last position."""
    contract.check_context_end(gpt2.case(method), reach=6)
    contract.check_commit(gpt2.case(method), PROMPTS[7:8])


@every_drafting
def test_sliding_window(mistral: Bench, method: str) -> None:
    """The text is several windows long, and some drafts cross the edge of a window."""
    prompt = [(7 * i * i + 3) % 64 for i in range(2 * architectures.WINDOW)]
    contract.check_commit(mistral.case(method), [prompt, PROMPTS[8]])


@every_drafting
def test_drafts_are_made_and_some_rejected(llama: Bench, method: str) -> None:
    rounds = [each for p in PROMPTS[:4] for each in run(llama.case(method), p)]
    assert Statistics.of(rounds).accepted < Statistics.of(rounds).drafted


@pytest.mark.parametrize(
    "name", ["layer-skip", "swift", "jacobi", "lookahead", "rsd-c", "rsd-s", "cascade"]
)
def test_drafts_are_accepted_too(llama: Bench, name: str) -> None:
    case = llama.case(SETTINGS[name][0])
    rounds = [each for prompt in PROMPTS[:6] for each in run(case, prompt)]
    assert Statistics.of(rounds).accepted > 0


def test_some_texts_end_inside_a_draft(llama: Bench) -> None:
    prompt = PROMPTS[0]
    whole = contract.plain(llama.target, tuple(prompt))
    ends = [
        run(llama.case("rsd-c"), prompt, End(eos=frozenset({whole[place]})))[-1]
        for place in contract.first_occurrences(whole)
    ]
    assert any(len(each.emitted) < each.accepted for each in ends)


def test_some_accepted_paths_are_not_the_first_rows(llama: Bench) -> None:
    """Otherwise `commit` would never have to move keys."""
    rounds = [each for p in PROMPTS[:9] for each in run(llama.case("rsd-c:branching=3-2"), p)]
    assert any(each.path != tuple(range(len(each.path))) for each in rounds)
