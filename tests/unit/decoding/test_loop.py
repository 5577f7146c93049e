"""Greedy decoding with any drafts gives the tokens of plain decoding."""

from __future__ import annotations

import pytest
import torch
from support.scripted_drafter import (
    LENGTH,
    Scripted,
    emitted,
    follows,
    run,
    skip,
)
from support.tiny import hf_greedy, tiny_gpt2, tiny_llama, tiny_prompts, tiny_target

from skipopt.decoding.api import (
    generate,
    generate_rounds,
    token_list,
)
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.plain import NoDrafter
from skipopt.drafting.prompt_lookup import PromptLookupDrafter
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Statistics

# --- times of a round


def test_the_seconds_of_a_round_do_not_include_the_capture_of_steps(prompt: list[int]) -> None:
    target = tiny_target(runtime="captured")
    times = []
    for _ in range(2):
        rounds = run(target, prompt, skip(target, "sometimes accepted", 4))
        times.append(sum(r.draft_seconds + r.verify_seconds for r in rounds))
    captured = target.runtime.step_caches
    assert captured.num_captured > 1
    assert times[0] - times[1] < captured.capture_seconds / 2


# --- the tokens of plain decoding


@pytest.mark.parametrize("gamma", range(1, 9))
@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("always accepted", 1.0, 1.0),
        ("sometimes accepted", 0.2, 0.95),
        ("hardly ever accepted", 0.0, 0.2),
    ],
)
def test_layer_skip_gives_the_tokens_of_generate(
    target: Target,
    prompt: list[int],
    text: list[int],
    name: str,
    lowest: float,
    highest: float,
    gamma: int,
) -> None:
    rounds = run(target, prompt, skip(target, name, gamma))
    rate = Statistics.of(rounds).acceptance_rate
    assert prompt + emitted(rounds) == text
    assert rate is not None
    assert lowest <= rate <= highest


@pytest.mark.parametrize("tau", [0.2, 0.5, 1.0])
def test_the_confidence_threshold_changes_drafts_and_not_tokens(
    target: Target, prompt: list[int], text: list[int], tau: float
) -> None:
    rounds = run(target, prompt, skip(target, "sometimes accepted", 6, tau))
    unlimited = run(target, prompt, skip(target, "sometimes accepted", 6))
    assert prompt + emitted(rounds) == text
    assert Statistics.of(rounds).drafted < Statistics.of(unlimited).drafted
    assert all(r.drafted for r in rounds[:-1]), "the token below the threshold is proposed too"


def test_gpt2_with_masks_gives_the_tokens_of_generate() -> None:
    target = tiny_target(tiny_gpt2())
    for prompt in tiny_prompts(3):
        expected = hf_greedy(target, prompt, LENGTH)
        for mask in (SkipMask.of(3, [0], [1]), SkipMask.of(3, [0, 1, 2])):
            assert emitted(run(target, prompt, LayerSkipDrafter(target, mask, 4))) == expected


def test_prompt_lookup_gives_the_tokens_of_generate(target: Target, prompt: list[int]) -> None:
    repeated = prompt * 3
    expected = hf_greedy(target, repeated, LENGTH)
    rounds = run(target, repeated, PromptLookupDrafter())
    assert emitted(rounds) == expected
    assert Statistics.of(rounds).drafted > 0


def test_prompt_of_one_token(target: Target) -> None:
    expected = hf_greedy(target, [7], LENGTH)
    for drafter in (
        NoDrafter(),
        PromptLookupDrafter(),
        skip(target, "sometimes accepted", 3),
    ):
        assert emitted(run(target, [7], drafter)) == expected


def test_tensor_and_list_prompts_are_the_same(target: Target, prompt: list[int]) -> None:
    as_list = [t.id for t in generate(target, prompt, max_new_tokens=4)]
    as_tensor = [t.id for t in generate(target, torch.tensor([prompt]), max_new_tokens=4)]
    assert as_list == as_tensor
    with pytest.raises(UsageError, match="one sequence"):
        token_list(torch.zeros(2, 3, dtype=torch.long))


# --- tokens per round


@pytest.mark.parametrize("wrong", [0, 1, 3])
@pytest.mark.parametrize("gamma", [1, 4])
def test_an_always_wrong_drafter_gives_one_token_per_round(
    target: Target, prompt: list[int], text: list[int], gamma: int, wrong: int
) -> None:
    rounds = run(target, prompt, Scripted(follows(text, wrong_from=0), gamma, wrong))
    assert prompt + emitted(rounds) == text
    assert [len(r.emitted) for r in rounds] == [1] * LENGTH
    assert all(not token.from_draft for r in rounds for token in r.tokens)


@pytest.mark.parametrize("wrong", [0, 1, 3])
@pytest.mark.parametrize("gamma", [1, 2, 3, 5, 7])
def test_an_oracle_gives_gamma_plus_one_tokens_per_round(
    target: Target, prompt: list[int], text: list[int], gamma: int, wrong: int
) -> None:
    rounds = run(target, prompt, Scripted(follows(text), gamma, wrong))
    assert prompt + emitted(rounds) == text
    assert {len(r.emitted) for r in rounds[:-1]} == {gamma + 1}
    assert [t.from_draft for t in rounds[0].tokens] == [True] * gamma + [False]
    assert [rounds[0].drafted[i] for i in rounds[0].path] == list(rounds[0].emitted[:-1])


@pytest.mark.parametrize("wrong", [0, 2])
@pytest.mark.parametrize("right", [1, 2, 3])
def test_drafts_are_accepted_up_to_the_first_wrong_token(
    target: Target, prompt: list[int], text: list[int], right: int, wrong: int
) -> None:
    drafter = Scripted(follows(text, wrong_from=right), 5, wrong)
    rounds = run(target, prompt, drafter)
    assert prompt + emitted(rounds) == text
    assert {r.accepted for r in rounds[:-1]} == {right}


def test_drafters_observe_the_outcome_of_their_drafts(
    target: Target, prompt: list[int], text: list[int]
) -> None:
    drafter = Scripted(follows(text, wrong_from=2), 3, wrong=1)
    rounds = run(target, prompt, drafter)
    for outcome, each in zip(drafter.outcomes, rounds, strict=True):
        assert (outcome.path, outcome.emitted) == (each.path, each.emitted)
        assert (outcome.draft.tokens, outcome.draft.parents) == (each.drafted, each.parents)
        assert outcome.logits.shape == (1 + len(each.drafted), 64)
        assert int(outcome.logits[outcome.last_row].argmax()) == each.emitted[-1]
        assert outcome.hidden is None


# --- where a text ends


@pytest.mark.parametrize("count", range(1, 13))
@pytest.mark.parametrize("gamma", [1, 4, 20])
def test_max_new_tokens_inside_a_draft(
    target: Target, prompt: list[int], text: list[int], count: int, gamma: int
) -> None:
    for drafter in (
        Scripted(follows(text), gamma),
        Scripted(follows(text), gamma, wrong=1),
        skip(target, "sometimes accepted", gamma),
    ):
        rounds = run(target, prompt, drafter, count)
        assert prompt + emitted(rounds) == text[: len(prompt) + count]
        assert [r.stop for r in rounds] == [None] * (len(rounds) - 1) + ["length"]


def short_and_long(limit: int) -> tuple[Target, Target]:
    """The same GPT-2 with a context of `limit`, and with one of 64."""
    target, long = tiny_target(tiny_gpt2(context=limit)), tiny_target(tiny_gpt2(context=64))
    # Of a longer context, the first positions are the same.
    long.model.transformer.wpe.weight.data[:limit] = target.model.transformer.wpe.weight.data
    for ours, theirs in zip(target.model.parameters(), long.model.parameters(), strict=True):
        if ours.shape == theirs.shape:
            theirs.data.copy_(ours.data)
    return target, long


@pytest.mark.parametrize("gamma", [1, 3, 20])
@pytest.mark.parametrize("room", range(1, 7))
def test_context_limit_inside_a_draft(room: int, gamma: int) -> None:
    """GPT-2 has no positions beyond its context, so one step too many is an error."""
    prompt = tiny_prompts(1)[0]
    target, long = short_and_long(limit := len(prompt) + room)
    assert target.context_limit == limit
    profile = Profile.by_hand(target, mlp=[1], gamma=gamma)
    rounds = list(generate_rounds(target, prompt, profile=profile, max_new_tokens=50))
    assert emitted(rounds) == hf_greedy(long, prompt, room)
    assert rounds[-1].stop == "context"


@pytest.mark.parametrize("room", range(1, 7))
def test_context_limit_inside_a_tree(room: int) -> None:
    """The depth of a tree is limited, not its number of rows."""
    prompt = tiny_prompts(1)[0]
    target, long = short_and_long(limit := len(prompt) + room)
    expected = hf_greedy(long, prompt, room)
    profile = Profile.by_hand(target, mlp=[1])
    for method in ("rsd-c:branching=3-2-2-1", "rsd-s:width=5:depth=6"):
        rounds = list(
            generate_rounds(target, prompt, profile=profile, method=method, max_new_tokens=50)
        )
        assert emitted(rounds) == expected
        assert rounds[-1].stop == "context"
    oracle = Scripted(follows(prompt + expected), 9, wrong=3)
    rounds = run(target, prompt, oracle, 50, context=limit)
    assert [r.emitted for r in rounds] == [tuple(expected)]
    assert rounds[-1].stop == "context"


def first_new(text: list[int], prompt: list[int], at_least: int) -> int:
    """An index in the continuation whose token does not occur before it."""
    return next(i for i in range(len(prompt) + at_least, len(text)) if text[i] not in text[:i])


@pytest.mark.parametrize("wrong", [0, 2])
@pytest.mark.parametrize("where", ["draft", "bonus", "rejected"])
def test_end_of_text(
    target: Target, prompt: list[int], text: list[int], where: str, wrong: int
) -> None:
    at = first_new(text, prompt, 3)
    index = at - len(prompt)
    eos = text[at]
    guesses = {
        "draft": Scripted(follows(text), index + 4, wrong),
        "bonus": Scripted(follows(text), index, wrong),
        "rejected": Scripted(lambda tokens: [eos, eos], 2, wrong),
    }
    rounds = run(target, prompt, guesses[where], eos=[eos])
    assert emitted(rounds) == hf_greedy(target, prompt, LENGTH, eos)
    assert emitted(rounds)[-1] == eos
    assert rounds[-1].stop == "eos"
    assert rounds[-1].tokens[-1].from_draft == (where != "bonus")
    if where == "rejected":
        assert [r.accepted for r in rounds[:-1]] == [0] * index


@pytest.mark.parametrize("wrong", [0, 2])
def test_end_of_text_drops_the_drafts_after_it(
    target: Target, prompt: list[int], text: list[int], wrong: int
) -> None:
    at = first_new(text, prompt, 1)
    rounds = run(target, prompt, Scripted(follows(text), 12, wrong), eos=[text[at]])
    assert len(rounds) == 1
    assert rounds[0].accepted == 12
    assert emitted(rounds) == text[len(prompt) : at + 1]


def test_several_end_of_text_tokens(target: Target, prompt: list[int], text: list[int]) -> None:
    at = first_new(text, prompt, 2)
    eos = [text[at], (text[at] + 1) % 64]
    expected = hf_greedy(target, prompt, LENGTH, eos)
    assert emitted(run(target, prompt, Scripted(follows(text), 4), eos=eos)) == expected


def test_end_of_text_token_of_the_model(prompt: list[int], text: list[int]) -> None:
    model = tiny_llama()
    model.generation_config.eos_token_id = text[first_new(text, prompt, 1)]
    tokens = [t.id for t in generate(tiny_target(model), prompt, max_new_tokens=LENGTH)]
    assert tokens == text[len(prompt) : first_new(text, prompt, 1) + 1]


# --- statistics


@pytest.mark.parametrize("gamma", [1, 3, 8])
def test_statistics_add_up(target: Target, prompt: list[int], gamma: int) -> None:
    rounds = run(target, prompt, skip(target, "sometimes accepted", gamma, 0.3))
    total = Statistics.of(rounds)
    assert total.new_tokens == LENGTH == total.accepted + total.target_forwards
    assert total.target_forwards == len(rounds)
    assert total.drafted == total.draft_forwards == sum(len(r.drafted) for r in rounds)
    assert total.acceptance_rate == total.accepted / total.drafted
    assert total.mean_acceptance_length == LENGTH / len(rounds)
    assert sum(total.accepted_at) == total.accepted
    assert len(total.acceptance_by_position) == max(len(r.drafted) for r in rounds)
    assert list(total.acceptance_by_position) == sorted(total.acceptance_by_position)[::-1]
    assert total.stop_reason == "length"


def test_statistics_of_plain_decoding(target: Target, prompt: list[int]) -> None:
    total = Statistics.of(run(target, prompt, NoDrafter()))
    assert (total.new_tokens, total.target_forwards, total.drafted) == (LENGTH, LENGTH, 0)
    assert total.acceptance_rate is None
    assert total.mean_acceptance_length == 1.0
