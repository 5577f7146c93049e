"""Requests: what is refused, which method decodes, and with which drafter and verifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.scripted_drafter import (
    GREEDY,
    LENGTH,
    emitted,
    skip,
)
from support.tiny import byte_tokenizer

from skipopt.decoding.api import (
    generate,
    generate_rounds,
    load_profile,
    resolve_method,
    token_list,
)
from skipopt.decoding.setup import DecodingSetup, make_decoding
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.errors import ProfileError, PromptError, UsageError
from skipopt.masks import SkipMask
from skipopt.methods import parse_method
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.sampling import SamplingOptions

# --- invalid requests


@pytest.mark.parametrize("count", [0, -1])
def test_no_new_tokens(target: Target, count: int) -> None:
    with pytest.raises(UsageError, match=f"1 or more, not {count}"):
        generate_rounds(target, [1, 2], max_new_tokens=count)


def test_empty_prompt(target: Target) -> None:
    with pytest.raises(PromptError, match="empty"):
        generate_rounds(target, [])


@pytest.mark.parametrize(
    "ids",
    [
        "text", "12", b"12", ["text"], None, 5, [None], [1, 2.5], [1, True], [[[1]]],
        np.array([1.0]), torch.tensor([True]), {"ids": [1]}, {"input_ids": "text"},
    ],
)  # fmt: skip
def test_a_prompt_of_anything_but_token_ids(target: Target, ids: Any) -> None:
    with pytest.raises(UsageError, match="list of integers") as refusal:
        generate_rounds(target, ids)
    assert "stream_generate" in (refusal.value.hint or "")


def test_chat_messages_in_place_of_token_ids(target: Target) -> None:
    with pytest.raises(UsageError, match="chat messages") as refusal:
        generate_rounds(target, [{"role": "user", "content": "a"}])  # type: ignore[list-item]
    assert "stream_generate" in (refusal.value.hint or "")


def test_token_ids_may_be_a_list_or_a_tensor(target: Target) -> None:
    for ids in ([1, 2], (1, 2), torch.tensor([1, 2]), torch.tensor([[1, 2]]), np.array([1, 2])):
        assert token_list(ids) == [1, 2]
    assert token_list([[1, 2]]) == token_list(list(np.array([1, 2]))) == [1, 2]
    with pytest.raises(UsageError, match="one sequence"):
        token_list(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(UsageError, match="list of integers"):
        token_list(torch.ones(2))


@pytest.mark.parametrize(
    "prompts", [[[1], [2]], ["a", "b"], [torch.tensor([1]), torch.tensor([2])], torch.ones(2, 2)]
)
def test_several_prompts_are_refused_with_a_hint(target: Target, prompts: Any) -> None:
    with pytest.raises(UsageError) as refusal:
        generate_rounds(target, prompts)
    assert "loop" in (refusal.value.hint or "")


@pytest.mark.parametrize("tensors", [None, "pt", "np"])
def test_what_a_tokenizer_returns_is_a_prompt(target: Target, tensors: str | None) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    encoded = tokenizer("ab", return_tensors=tensors)
    chat = [{"role": "user", "content": "ab"}]
    templated = tokenizer.apply_chat_template(chat, return_tensors=tensors, return_dict=True)
    assert token_list(encoded) == token_list(templated) == tokenizer("ab").input_ids
    two = tokenizer(["ab", "ac"], return_tensors=tensors)
    with pytest.raises(UsageError):
        token_list(two)
    with pytest.raises(UsageError, match="padded"):
        token_list({"input_ids": [[0, 1]], "attention_mask": [[0, 1]]})


def test_numbers_of_numpy_are_numbers(target: Target) -> None:
    profile = Profile.by_hand(
        target, attention=np.array([1]), gamma=np.int64(2), tau=np.float32(0)
    )  # type: ignore[arg-type]
    sampling: dict[str, Any] = {
        "max_new_tokens": np.int64(3),
        "temperature": np.float32(1),
        "top_k": np.int32(5),
        "top_p": np.float32(0.9),
        "seed": np.int64(3),
    }
    plain = {key: value.item() for key, value in sampling.items()}
    texts = [
        [token.id for token in generate(target, [1, 2], profile=profile, **options)]
        for options in (sampling, plain)
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 3
    for wrong in (2.5, "3", None):
        with pytest.raises(UsageError, match="max-new-tokens must be a whole number"):
            generate(target, [1, 2], max_new_tokens=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="temperature must be a number, not '1'"):
        generate(target, [1, 2], temperature="1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("layer-skip:gamma=5000", "layer-skip: gamma must be at most 4096, not 5000"),
        ("rsd-c:branching=9-5000", "branching must be at most 4096"),
        ("rsd-s:width=4000:depth=4000", "verifies up to 16000000 drafted tokens"),
        ("swift:seed=9223372036854775808", "a seed must lie in 0"),
    ],
)
def test_drafts_that_no_memory_holds_are_refused(target: Target, method: str, words: str) -> None:
    profile = Profile.by_hand(target, attention=[1])
    with pytest.raises(UsageError, match=words):
        generate_rounds(target, [1, 2], profile=profile, method=method)
    assert list(generate(target, [1], profile=profile, method="swift:seed=5000", max_new_tokens=1))
    too_long = Profile.by_hand(target, attention=[1], gamma=10**9)
    with pytest.raises(UsageError, match="4096 at most"):
        generate_rounds(target, [1, 2], profile=too_long)


@pytest.mark.parametrize("token", [-1, "vocab_size"])
def test_a_token_that_the_model_does_not_have(target: Target, token: int | str) -> None:
    unknown = target.vocab_size if isinstance(token, str) else token
    assert len(list(generate_rounds(target, [1, target.vocab_size - 1], max_new_tokens=1))) == 1
    with pytest.raises(PromptError, match=f"the token {unknown}"):
        generate_rounds(target, [1, unknown])


@pytest.mark.parametrize("excess", [0, 1])
def test_prompt_that_fills_the_context(target: Target, excess: int) -> None:
    with pytest.raises(PromptError, match="256"):
        generate_rounds(target, [1] * (256 + excess))


def test_prompt_one_short_of_the_context(target: Target) -> None:
    rounds = list(generate_rounds(target, [1, 2, 3, 4] * 63 + [1, 2, 3], max_new_tokens=9))
    assert [len(r.emitted) for r in rounds] == [1]
    assert rounds[0].stop == "context"


def test_a_text_of_the_length_asked_for_that_also_fills_the_context(target: Target) -> None:
    [*_, last] = generate_rounds(target, [1, 2, 3, 4] * 63, max_new_tokens=4)
    assert last.stop == "length"


@pytest.mark.parametrize(("gamma", "tau"), [(0, 0.0), (2, -0.1), (2, 1.1)])
def test_draft_settings_out_of_range(target: Target, gamma: int, tau: float) -> None:
    with pytest.raises(UsageError):
        skip(target, "sometimes accepted", gamma, tau)


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0}]
)
def test_sampling_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        SamplingOptions(**options)  # type: ignore[arg-type]


def test_the_method_of_a_request(target: Target) -> None:
    profile = Profile.by_hand(target, mlp=[1], gamma=2)
    off = profile.model_copy(update={"enabled": False, "reason": "too slow"})
    assert str(resolve_method(None, None)) == "plain"
    assert str(resolve_method(profile, None)) == "layer-skip"
    assert str(resolve_method(off, None)) == "plain"
    assert str(resolve_method(off, "layer-skip")) == "layer-skip"
    assert str(resolve_method(None, "prompt-lookup:gamma=3")) == "prompt-lookup:gamma=3"
    assert resolve_method(None, "layer-skip:exit_layer=2").options == {"exit_layer": "2"}
    for name in ("layer-skip", "rsd-c", "rsd-s"):
        with pytest.raises(UsageError, match=f"{name} needs a mask"):
            resolve_method(None, name)
    with pytest.raises(UsageError, match="unknown method"):
        resolve_method(profile, "no-such-method")
    with pytest.raises(UsageError, match="no option 'qunat'"):
        resolve_method(None, "layer-skip:qunat=int8")


@pytest.mark.parametrize(
    "text", ["plain:", "plain:gamma", "plain:gamma=", "plain:=3", "plain:A=3"]
)
def test_invalid_options_of_a_method(text: str) -> None:
    with pytest.raises(UsageError, match="is not an option"):
        parse_method(text)


def test_a_setup_is_made_of_profile_and_options(target: Target) -> None:
    profile = Profile.by_hand(target, mlp=[1], gamma=2, tau=0.5)
    warm = SamplingOptions(temperature=1.0)

    def setup(method: str, options: SamplingOptions = GREEDY) -> DecodingSetup:
        return make_decoding(target, parse_method(method), profile, options)

    drafter = setup("layer-skip:gamma=7").drafter
    assert isinstance(drafter, LayerSkipDrafter)
    assert (drafter.gamma, drafter.max_extra_rows, drafter.tau) == (7, 7, 0.5)
    assert setup("layer-skip").drafter.max_extra_rows == 2
    assert setup("prompt-lookup").drafter.max_extra_rows == 10
    assert setup("layer-skip").verifier.name == "match"
    assert setup("layer-skip", warm).verifier.name == "rejection"
    assert setup("layer-skip:verify=match", warm).verifier.name == "match"
    assert setup("prompt-lookup", warm).verifier.name == "match"
    assert setup("prompt-lookup:verify=rejection", warm).verifier.name == "rejection"
    with pytest.raises(UsageError, match="plain has no option 'gamma'") as refusal:
        setup("plain:gamma=3")
    assert refusal.value.hint == "its options: none"
    with pytest.raises(UsageError, match="gamma is 'many'"):
        setup("layer-skip:gamma=many")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("layer-skip:foo=1", "layer-skip has no option 'foo'"),
        ("layer-skip:gamma=many", "gamma is 'many', expected a whole number"),
        ("layer-skip:verify=magic", "unknown verifier 'magic'"),
        ("layer-skip:verify=relaxed-typical:epsilon=x", "epsilon is 'x', expected a number"),
    ],
)
def test_options_of_a_method_are_checked_when_a_profile_is_read(
    target: Target, tmp_path: Path, method: str, words: str
) -> None:
    path = tmp_path / "p.yaml"
    good = "layer-skip:gamma=2:verify=match"
    Profile.build(target, SkipMask.of(target.depth, [1]), method=good, gamma=3, tau=0.5).save(path)
    assert load_profile(path).drafting.method == good
    path.write_text(path.read_text().replace(good, method))
    with pytest.raises(ProfileError, match=rf"p\.yaml: drafting\.method is {method}: .*{words}"):
        load_profile(path)


# --- sampling


def test_sampled_decoding_repeats_with_its_seed_only(target: Target, prompt: list[int]) -> None:
    profile = Profile.by_hand(target, attention=[1], gamma=3)
    texts = [
        [t.id for t in generate(target, prompt, profile=profile, temperature=2.0, seed=seed)]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_temperature_near_zero_is_nearly_greedy(
    target: Target, prompt: list[int], text: list[int]
) -> None:
    profile = Profile.by_hand(target, attention=[1], gamma=3)
    options = replace(GREEDY, temperature=1e-5)
    rounds = generate_rounds(
        target, prompt, profile=profile, max_new_tokens=LENGTH, options=options
    )
    assert prompt + emitted(list(rounds)) == text
