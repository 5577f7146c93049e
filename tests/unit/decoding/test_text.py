"""Text generation: pieces of text with their tokens, stop strings and statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from support.tiny import byte_tokenizer, tiny_llama, tiny_target

import skipopt
from skipopt.decoding.options import DecodingOptions
from skipopt.decoding.text import GeneratedText, TextPiece, TextStatistics, text_pieces
from skipopt.errors import PromptError, UsageError
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Round

PROMPT = "def f(a, b):"
LENGTH = 40


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(vocabulary=257), byte_tokenizer())


@pytest.fixture(scope="module")
def plain(target: Target) -> GeneratedText:
    return generated(target, PROMPT)


def generated(target: Target, prompt: Any, **options: Any) -> GeneratedText:
    options = {"max_new_tokens": LENGTH, **options}
    return GeneratedText.of(list(skipopt.stream_generate(target, prompt, **options)))


def test_the_pieces_are_the_text_of_the_tokens_of_generate(
    target: Target, plain: GeneratedText
) -> None:
    ids = target.tokenizer(PROMPT)["input_ids"]
    tokens = [token.id for token in skipopt.generate(target, ids, max_new_tokens=LENGTH)]
    assert plain.tokens == tokens
    assert plain.text == target.tokenizer.decode(tokens)


def test_text_ids_and_tensors_are_the_same_prompt(target: Target, plain: GeneratedText) -> None:
    import torch

    ids = target.tokenizer(PROMPT)["input_ids"]
    for prompt in (ids, torch.tensor([ids]), torch.tensor(ids)):
        assert generated(target, prompt).text == plain.text


def test_messages_and_chat_use_the_chat_template(target: Target) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    )
    chatty = replace(target, tokenizer=tokenizer)
    expected = generated(target, "<user>hi<assistant>")
    assert generated(chatty, [{"role": "user", "content": "hi"}]).text == expected.text
    assert generated(chatty, "hi", chat=True).text == expected.text


def test_a_profile_drafts_and_does_not_change_the_text(
    target: Target, plain: GeneratedText
) -> None:
    profile = Profile.by_hand(target, attention=[1], mlp=[2], gamma=3)
    pieces = list(skipopt.stream_generate(target, PROMPT, profile=profile, max_new_tokens=LENGTH))
    made = GeneratedText.of(pieces)
    assert (made.text, made.tokens) == (plain.text, plain.tokens)
    assert made.statistics.method == "layer-skip"
    from_draft = [flag for piece in pieces for flag in piece.from_draft]
    assert len(from_draft) == len(made.tokens)
    assert sum(from_draft) == sum(min(r.accepted, len(r.emitted)) for r in made.rounds) > 0


def test_the_last_piece_alone_has_finish_reason_and_statistics(target: Target) -> None:
    *others, last = skipopt.stream_generate(
        target, PROMPT, method="prompt-lookup", max_new_tokens=LENGTH
    )
    assert last.finish_reason == "length"
    assert all((p.finish_reason, p.statistics) == (None, None) for p in others)
    statistics = last.statistics
    assert statistics is not None
    assert statistics.prompt_tokens == len(PROMPT)
    assert statistics.rounds.new_tokens == LENGTH
    assert statistics.rounds.target_forwards == len(others) + 1
    assert statistics.seconds > 0
    assert statistics.prefill_seconds > 0
    assert statistics.tokens_per_second == LENGTH / statistics.seconds


def test_complete_is_the_text_of_the_stream(target: Target, plain: GeneratedText) -> None:
    made = skipopt.complete(target, PROMPT, method="prompt-lookup", max_new_tokens=LENGTH)
    assert (made.text, made.tokens, made.finish_reason) == (plain.text, plain.tokens, "length")
    assert len(made.origins) == LENGTH
    assert set(made.origins) <= {"copied", "recovered", "bonus", "target"}
    figures = made.statistics
    assert figures.time_to_first_token is not None
    assert figures.prefill_seconds < figures.time_to_first_token
    assert figures.time_to_first_token <= figures.prefill_seconds + figures.seconds
    assert figures.acceptance_by_position == figures.rounds.acceptance_by_position
    assert "40 tokens" in repr(made)


def test_a_text_may_end_inside_a_draft(target: Target, plain: GeneratedText) -> None:
    """At an end-of-text token, and where the budget is used up."""
    profile = Profile.by_hand(target, attention=[1], mlp=[2], gamma=5)
    end = plain.tokens[17]
    ending = replace(target, eos_ids=frozenset({end}))
    made = generated(ending, PROMPT, profile=profile)
    expected = plain.tokens[: plain.tokens.index(end) + 1]
    assert (made.tokens, made.finish_reason) == (expected, "eos")
    for length in range(1, 8):
        made = generated(target, PROMPT, profile=profile, max_new_tokens=length)
        assert (made.tokens, made.finish_reason) == (plain.tokens[:length], "length")


def test_characters_of_several_tokens_come_whole(target: Target) -> None:
    """A byte-level copy of the prompt's own text: each piece is whole characters."""
    text = "é→🙂" * 6
    tokens = target.tokenizer(text)["input_ids"]
    rounds = [Round((0,) * 2, 2, tuple(tokens[i : i + 3])) for i in range(0, len(tokens), 3)]
    rounds[-1] = replace(rounds[-1], stop="length")
    pieces = list(text_pieces(target.tokenizer, rounds, (), TextStatistics("plain", 1)))
    assert "".join(piece.text for piece in pieces) == text
    assert not any("\ufffd" in piece.text for piece in pieces)


def test_several_prompts_are_refused_with_a_hint(target: Target) -> None:
    for prompts in (["a", "b"], target.tokenizer(["ab", "cd"])):
        with pytest.raises(UsageError, match="2 prompts") as refusal:
            skipopt.complete(target, prompts)
        assert "loop" in (refusal.value.hint or "")


def test_what_a_tokenizer_returns_is_a_prompt(target: Target, plain: GeneratedText) -> None:
    encoded = target.tokenizer(PROMPT, return_tensors="pt")
    assert generated(target, encoded).text == plain.text


@pytest.mark.parametrize("method", [None, "prompt-lookup"])
def test_a_stop_string_ends_the_text_before_it(
    target: Target, plain: GeneratedText, method: str | None
) -> None:
    stop = plain.text[5:7]
    made = generated(target, PROMPT, stop=[stop], method=method)
    assert made.text == plain.text[: plain.text.index(stop)]
    assert made.statistics.rounds.stop_reason == "stop"
    assert made.tokens == plain.tokens[: len(made.tokens)]
    assert made.statistics.rounds.new_tokens == len(made.tokens)


def test_a_prompt_alone_in_a_list_is_that_prompt(target: Target, plain: GeneratedText) -> None:
    assert generated(target, [PROMPT]).text == plain.text
    ids = target.tokenizer(PROMPT)["input_ids"]
    assert generated(target, [ids]).text == plain.text
    with pytest.raises(UsageError, match="2 prompts"):
        generated(target, [PROMPT, PROMPT])


def test_messages_are_no_token_ids(target: Target) -> None:
    messages = [{"role": "user", "content": "a"}] * 2
    with pytest.raises(UsageError, match="chat messages") as refusal:
        skipopt.generate(target, messages)
    assert "stream_generate" in str(refusal.value.hint)


def test_pieces_and_statistics_have_short_descriptions(target: Target) -> None:
    pieces = list(skipopt.stream_generate(target, PROMPT, max_new_tokens=2))
    first, last = pieces
    assert repr(first) == f"TextPiece({first.text!r}, {first.token_ids})"
    assert repr(last) == f"TextPiece({last.text!r}, {last.token_ids}, length)"
    assert repr(pieces[-1].statistics).startswith("TextStatistics(plain, ")
    assert len(repr(pieces[-1].statistics)) < 120


def test_one_stop_string_need_not_be_in_a_list(target: Target, plain: GeneratedText) -> None:
    stop = plain.text[5:7]
    made = generated(target, PROMPT, stop=stop)
    assert made.text == plain.text[: plain.text.index(stop)]
    with pytest.raises(UsageError, match="stop string"):
        DecodingOptions(stop="")


def test_sampled_text_repeats_with_its_seed(target: Target) -> None:
    texts = [
        generated(target, PROMPT, temperature=1.0, top_k=50, top_p=0.9, seed=seed).text
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_options_may_be_given_as_one_value_and_changed(target: Target) -> None:
    options = DecodingOptions(max_new_tokens=3)
    assert len(generated(target, PROMPT, options=options, max_new_tokens=5).tokens) == 5
    [*_, last] = skipopt.stream_generate(target, PROMPT, options)
    assert last.statistics is not None
    assert last.statistics.rounds.new_tokens == 3


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"max_new_tokens": 0}, UsageError, "max-new-tokens"),
        ({"stop": [""]}, UsageError, "stop"),
        ({"temperature": -1.0}, UsageError, "temperature"),
        ({"top_p": 0.0}, UsageError, "top-p"),
        ({"method": "magic"}, UsageError, "magic"),
        ({"method": "layer-skip"}, UsageError, "mask"),
        ({"chat": True}, UsageError, "chat template"),
        ({"prompt": ""}, PromptError, "empty"),
        ({"prompt": [1, 2] * 400}, PromptError, "context"),
    ],
)
def test_errors_come_before_the_first_piece(
    target: Target, options: dict[str, Any], error: type[Exception], word: str
) -> None:
    given = {"prompt": PROMPT, **options}
    with pytest.raises(error, match=word):
        skipopt.stream_generate(target, **given)


def test_a_target_without_a_tokenizer_is_refused(target: Target) -> None:
    with pytest.raises(UsageError, match="no tokenizer"):
        skipopt.stream_generate(replace(target, tokenizer=None), [1, 2])


def test_only_decoding_is_timed() -> None:
    """The prefill is separated, and what the consumer does between rounds is not counted."""
    clock = FakeClock()

    def rounds() -> Iterator[Round]:
        clock.now += 5.0 + 1.0  # prefill and first round
        yield Round((), 0, (65,), draft_seconds=0.25, verify_seconds=0.75)
        clock.now += 2.0
        yield Round((), 0, (66,), stop="length")

    found: list[TextPiece] = []
    for piece in text_pieces(byte_tokenizer(), rounds(), (), TextStatistics("plain", 1), clock):
        found.append(piece)
        clock.now += 100.0
    statistics = found[-1].statistics
    assert statistics is not None
    assert statistics.prefill_seconds == pytest.approx(5.0)
    assert statistics.seconds == pytest.approx(3.0)
    assert statistics.tokens_per_second == pytest.approx(2 / 3)


class FakeClock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now
