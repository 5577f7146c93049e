"""Texts of a batch are those that are decoded alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.architectures import build
from support.native import needs_native
from support.tiny import tiny_gpt2, tiny_llama, tiny_target

from skipopt.decoding.api import generate
from skipopt.decoding.batch import BatchDecoding, BatchRequest
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.prompt_lookup import PromptLookupDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.errors import ModelError, PromptError, UsageError
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.step_rows import StepRows
from skipopt.sampling import SamplingOptions

LENGTHS = (1, 40, 3, 17, 9, 64, 2, 30)
METHODS = ("plain", "prompt-lookup:gamma=4", "suffix", "layer-skip", "layer-skip:tau=0.5:gamma=6")
RUNTIMES = ("eager", pytest.param("native", marks=needs_native), "captured")
SAMPLED: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9}


@pytest.fixture(scope="module", params=RUNTIMES[:2])
def target(request: pytest.FixtureRequest) -> Target:
    return tiny_target(runtime=request.param)


@pytest.fixture(scope="module")
def profile(target: Target) -> Profile:
    return Profile.by_hand(target, attention=[1], mlp=[2], gamma=3)


def prompts_of(lengths: tuple[int, ...]) -> list[list[int]]:
    """Prompts of these lengths that repeat themselves."""
    return [(row[: max(1, n // 2)] * n)[:n] for row, n in zip(rows(), lengths, strict=False)]


def rows() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 64, (8, 64), generator=generator).tolist()


def together(
    target: Target,
    prompts: list[list[int]],
    method: str = "plain",
    profile: Profile | None = None,
    max_new_tokens: int | list[int] = 24,
    batch_size: int = 8,
    **sampling: Any,
) -> list[list[int]]:
    """The new tokens of each text."""
    most = max_new_tokens if isinstance(max_new_tokens, list) else [max_new_tokens] * len(prompts)
    requests = [
        BatchRequest(prompt, count, SamplingOptions(seed=seed, **sampling))
        for seed, (prompt, count) in enumerate(zip(prompts, most, strict=True))
    ]
    texts: list[list[int]] = [[] for _ in prompts]
    decoding = BatchDecoding(
        target, requests, profile=profile, method=method, batch_size=batch_size
    )
    for found in decoding:
        for number, each in found.items():
            texts[number] += each.emitted
    return texts


def alone(
    target: Target,
    prompt: list[int],
    seed: int = 0,
    method: str = "plain",
    profile: Profile | None = None,
    max_new_tokens: int = 24,
    **sampling: Any,
) -> list[int]:
    made = generate(
        target,
        prompt,
        profile=profile,
        method=method,
        max_new_tokens=max_new_tokens,
        seed=seed,
        **sampling,
    )
    return [token.id for token in made]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 8])
def test_greedy_texts_of_very_different_prompts(
    target: Target, profile: Profile, method: str, count: int
) -> None:
    prompts = prompts_of(LENGTHS)[:count]
    expected = [alone(target, prompt) for prompt in prompts]
    assert together(target, prompts, method, profile) == expected


def test_steps_that_are_captured_for_a_number_of_rows() -> None:
    captured = tiny_target(runtime="captured")
    profile = Profile.by_hand(captured, attention=[1], mlp=[2], gamma=3)
    prompts = prompts_of((5, 20, 9))
    expected = [alone(captured, prompt, max_new_tokens=8) for prompt in prompts]
    assert together(captured, prompts, "layer-skip", profile, 8) == expected


def test_drafts_are_accepted_and_rejected(target: Target, profile: Profile) -> None:
    requests = [BatchRequest(p, 24, SamplingOptions()) for p in prompts_of(LENGTHS)[:3]]
    decoding = BatchDecoding(target, requests, profile=profile, method="layer-skip")
    accepted = {each.accepted for found in decoding for each in found.values() if each.drafted}
    assert 0 in accepted
    assert len(accepted) > 1


@pytest.mark.parametrize("method", [*METHODS, "layer-skip:verify=match"])
def test_sampled_texts_are_those_of_their_seeds(
    target: Target, profile: Profile, method: str
) -> None:
    prompts = prompts_of(LENGTHS)[:4]
    expected = [
        alone(target, prompt, seed, method, profile, **SAMPLED)
        for seed, prompt in enumerate(prompts)
    ]
    assert together(target, prompts, method, profile, **SAMPLED) == expected


def test_a_text_does_not_depend_on_its_neighbors(target: Target, profile: Profile) -> None:
    prompts = prompts_of(LENGTHS)
    found = together(target, prompts, "layer-skip", profile, **SAMPLED)
    others = [prompts[0], *prompts_of((5, 6, 7))]
    assert together(target, others, "layer-skip", profile, **SAMPLED)[0] == found[0]


@pytest.mark.parametrize("method", METHODS)
def test_texts_end_at_their_own_budgets(target: Target, profile: Profile, method: str) -> None:
    prompts, most = prompts_of(LENGTHS)[:4], [1, 7, 30, 2]
    expected = [
        alone(target, prompt, max_new_tokens=count)
        for prompt, count in zip(prompts, most, strict=True)
    ]
    assert together(target, prompts, method, profile, most) == expected


@pytest.mark.parametrize("method", METHODS)
def test_texts_end_at_an_end_of_text(target: Target, profile: Profile, method: str) -> None:
    prompts = prompts_of(LENGTHS)[:4]
    plain = [alone(target, prompt) for prompt in prompts]
    ending = replace(target, eos_ids=frozenset({plain[0][5], plain[2][11]}))
    expected = [alone(ending, prompt) for prompt in prompts]
    assert len(expected[0]) < len(plain[0])
    assert together(ending, prompts, method, profile) == expected


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_text_that_ends_leaves_its_place_to_the_next(
    target: Target, profile: Profile, batch_size: int
) -> None:
    prompts, most = prompts_of(LENGTHS)[:5], [3, 20, 1, 9, 12]
    expected = [
        alone(target, prompt, max_new_tokens=count)
        for prompt, count in zip(prompts, most, strict=True)
    ]
    for method in ("plain", "layer-skip"):
        found = together(target, prompts, method, profile, most, batch_size)
        assert found == expected


def test_a_text_that_was_left_is_decoded_no_further(target: Target) -> None:
    requests = [BatchRequest(p, 24, SamplingOptions()) for p in prompts_of((4, 5))]
    decoding = BatchDecoding(target, requests)
    seen: list[set[int]] = []
    for found in decoding:
        seen.append(set(found))
        if len(seen) == 3:
            decoding.leave(1)
    assert seen[:3] == [{0, 1}] * 3
    assert seen[3:] == [{0}] * 21


def test_each_round_is_one_forward_of_the_target(
    target: Target, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [BatchRequest(p, 24, SamplingOptions()) for p in prompts_of(LENGTHS)]
    decoding = BatchDecoding(target, requests, profile=profile, method="prompt-lookup")
    forwards: list[int] = []
    whole = decoding.engine.all
    run = whole.forward

    def counted(rows: StepRows) -> torch.Tensor:
        forwards.append(len(rows.inputs))
        return run(rows)

    monkeypatch.setattr(whole, "forward", counted)
    rounds = list(decoding)
    assert len(forwards) == len(rounds)
    assert forwards == [rows for rows, _ in decoding.statistics.round_seconds]


def test_more_rows_than_a_forward_takes(target: Target) -> None:
    """Drafts that may not be shortened: sampled texts whose draws depend on them."""
    prompts = prompts_of(LENGTHS)
    method = "prompt-lookup:gamma=12:verify=rejection"
    expected = [
        alone(target, prompt, seed, method, temperature=0.3) for seed, prompt in enumerate(prompts)
    ]
    assert together(target, prompts, method, temperature=0.3) == expected


def test_processors_of_one_text_see_its_own_tokens(target: Target, profile: Profile) -> None:
    prompts = prompts_of(LENGTHS)[:4]
    options: Any = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_new_tokens": 4}
    expected = [alone(target, prompt, **options) for prompt in prompts]
    assert together(target, prompts, "layer-skip", profile, **options) == expected


def test_a_context_that_is_full() -> None:
    short = tiny_target(tiny_llama(context=32))
    prompts = [prompt[:20] for prompt in rows()[:3]]
    expected = [alone(short, prompt, max_new_tokens=50) for prompt in prompts]
    assert len(expected[0]) == 12
    assert together(short, prompts, "prompt-lookup", max_new_tokens=50) == expected


def test_learned_positions_and_masks_of_another_model() -> None:
    target = tiny_target(tiny_gpt2())
    profile = Profile.by_hand(target, attention=[1], mlp=[2], gamma=3)
    prompts = prompts_of((1, 20, 7))
    expected = [alone(target, prompt) for prompt in prompts]
    assert together(target, prompts, "layer-skip", profile) == expected


@pytest.mark.parametrize("method", ["cascade", "swift", "rsd-c", "jacobi", "token-recycling"])
def test_other_methods_are_refused_by_name(target: Target, profile: Profile, method: str) -> None:
    with pytest.raises(UsageError, match=f"{method} does not decode batches"):
        together(target, prompts_of((3, 4)), method, profile)


def test_what_is_wrong_is_refused_before_the_first_round(target: Target) -> None:
    with pytest.raises(PromptError):
        together(target, [[1, 2], []])
    with pytest.raises(UsageError):
        together(target, [[1, 2]], batch_size=0)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_logits_that_are_not_numbers_are_an_error(runtime: str) -> None:
    model = tiny_llama()
    target = tiny_target(model, runtime=runtime)
    model.model.norm.weight.data[3] = math.nan
    with pytest.raises(ModelError, match="for new token 1 are NaN or inf"):
        together(target, prompts_of((3, 4)))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_draft_that_is_not_a_number_spoils_nothing(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama()
    target = tiny_target(model, runtime=runtime)
    prompts = prompts_of((6, 1, 8))
    expected = [alone(target, prompt) for prompt in prompts]
    seen = {token for text in (*prompts, *expected) for token in text}
    damaged = next(token for token in range(64) if token not in seen)
    model.model.embed_tokens.weight.data[damaged] = math.nan

    def propose(drafter: Drafter, state: DraftState, limit: int) -> DraftTree:
        return DraftTree.chain([damaged][:limit])

    monkeypatch.setattr(PromptLookupDrafter, "propose", propose)
    assert together(target, prompts, "prompt-lookup") == expected


@pytest.mark.parametrize("runtime", RUNTIMES[:2])
@pytest.mark.parametrize("name", ["mistral", "gemma3", "qwen2 sliding"])
def test_sliding_windows(name: str, runtime: str) -> None:
    target = tiny_target(build(name), runtime=runtime)
    profile = Profile.by_hand(target, attention=[1], mlp=[0], gamma=3)
    prompts = prompts_of((1, 30, 3, 17))
    expected = [alone(target, prompt) for prompt in prompts]
    for method in ("plain", "layer-skip", "prompt-lookup"):
        assert together(target, prompts, method, profile) == expected


def test_models_without_masks_of_their_own_are_refused() -> None:
    target = tiny_target(build("bloom"))
    with pytest.raises(ModelError, match="cannot decode batches"):
        together(target, prompts_of((3, 4)))
