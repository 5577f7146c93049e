"""Token ids to text while they are generated: whole characters, and no part of a stop string."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from skipopt.detokenizer import (
    TextStream,
    decode_text,
    encode_prompt,
    encode_prompts,
    first_stop,
    held_back,
)
from skipopt.errors import PromptError, UsageError
from skipopt.prompts import Prompt
from skipopt.rounds import Round, Statistics

END = "<|endoftext|>"
MERGED = ["de", "def", "st", "stop", "ab", "bc", "op"]


def byte_level(merged: list[str] = MERGED) -> Any:
    """A byte-level tokenizer with a token for every byte and some longer ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [END, *alphabet, *merged]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=END))
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)


def byte_fallback() -> Any:
    """A tokenizer like Llama 2's: unknown bytes are written <0xE2>, the first space is dropped."""
    words = [END, *"▁abc", *(f"<0x{i:02X}>" for i in range(256))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=END))
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)


TOKENIZER = byte_level()


def byte_ids(text: str | bytes) -> list[int]:
    """One token for each byte."""
    raw = text.encode() if isinstance(text, str) else text
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if isinstance(text, str):
        [(written, _)] = letters.pre_tokenize_str(text) or [("", (0, 0))]
        return [TOKENIZER.convert_tokens_to_ids(c) for c in written]
    return [_id_of_byte(byte) for byte in raw]


def _id_of_byte(byte: int) -> int:
    """The token of a byte, by a character whose UTF-8 holds it."""
    for low in range(0x10000):
        if 0xD800 <= low < 0xE000:
            continue
        raw = chr(low).encode()
        if byte in raw:
            return byte_ids(chr(low))[raw.index(byte)]
    return {0xF0: byte_ids("😀")[0]}[byte]


def word(text: str) -> int:
    return int(TOKENIZER.convert_tokens_to_ids(text))


def pieces(ids: list[int], stops: tuple[str, ...] = (), tokenizer: Any = TOKENIZER) -> list[str]:
    stream = TextStream(tokenizer, stops)
    return [*(stream.push([i]) for i in ids), stream.flush()]


@pytest.mark.parametrize("text", ["é", "日本", "a😀b", "ü😀日x", "naïve 👩‍👩‍👧 ok"])
def test_characters_are_returned_whole(text: str) -> None:
    found = pieces(byte_ids(text))
    assert "".join(found) == text
    assert not any("\ufffd" in piece for piece in found)


def test_text_is_returned_as_soon_as_it_is_final() -> None:
    assert pieces(byte_ids("aéb")) == ["a", "", "é", "b", ""]


def test_an_incomplete_character_is_returned_by_flush() -> None:
    found = pieces([*byte_ids("ok"), byte_ids("é")[0]])
    assert found == ["o", "k", "", "\ufffd"]


def test_a_real_replacement_character_is_text() -> None:
    assert "".join(pieces(byte_ids("a\ufffdb\ufffd"))) == "a\ufffdb\ufffd"


def test_invalid_bytes_are_not_held_back_forever() -> None:
    stream = TextStream(TOKENIZER)
    half = byte_ids("é")[1]
    given = "".join(stream.push([half]) for _ in range(50))
    assert len(given) >= 45
    assert len(given + stream.flush()) == 50


@pytest.mark.parametrize("seed", range(20))
def test_the_pieces_of_any_tokens_are_their_text(seed: int) -> None:
    rng = random.Random(seed)
    ids = [rng.randrange(1, 257 + len(MERGED)) for _ in range(120)]
    assert "".join(pieces(ids)) == TOKENIZER.decode(ids)


@pytest.mark.parametrize("text", ["éé€😀", "😀😀😀", "a😀 b€c", "€" * 30])
def test_byte_fallback_characters_are_returned_whole(text: str) -> None:
    tokenizer = byte_fallback()
    known = {" ": "▁", **{c: c for c in "abc"}}
    names = [
        n
        for c in text
        for n in ([known[c]] if c in known else [f"<0x{b:02X}>" for b in c.encode()])
    ]
    found = pieces([tokenizer.convert_tokens_to_ids(n) for n in names], tokenizer=tokenizer)
    assert "".join(found) == text
    assert not any("\ufffd" in piece for piece in found)


def metaspace() -> Any:
    """A tokenizer like T5's: words begin with ▁, and the first space of a text is dropped."""
    words = [END, *"▁abc", "▁a", "▁bc", "▁abc"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=END))
    made.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)


@pytest.mark.parametrize("seed", range(10))
def test_prefix_spaces_are_those_of_the_whole_text(seed: int) -> None:
    tokenizer = metaspace()
    rng = random.Random(seed)
    ids = [rng.randrange(1, len(tokenizer)) for _ in range(120)]
    assert "".join(pieces(ids, tokenizer=tokenizer)) == tokenizer.decode(ids)


@pytest.mark.parametrize("seed", range(10))
def test_prefix_spaces_among_byte_fallback_characters(seed: int) -> None:
    tokenizer = byte_fallback()
    rng = random.Random(seed)
    parts = [["▁"], ["a"], ["b"], *([f"<0x{b:02X}>" for b in c.encode()] for c in "é€😀")]
    names = [name for _ in range(60) for name in rng.choice(parts)]
    ids = tokenizer.convert_tokens_to_ids(names)
    assert "".join(pieces(ids, tokenizer=tokenizer)) == tokenizer.decode(ids)


def test_special_tokens_are_not_text() -> None:
    assert "".join(pieces([word("a"), 0])) == "a"


def test_only_a_window_is_decoded() -> None:
    longest = 0

    class Counting:
        def decode(self, ids: list[int], **options: Any) -> str:
            nonlocal longest
            longest = max(longest, len(ids))
            return str(TOKENIZER.decode(ids, **options))

    assert "".join(pieces(byte_ids("héllo " * 200), tokenizer=Counting())) == "héllo " * 200
    assert longest < 40


# --- stop strings


def test_the_text_ends_before_a_stop_string() -> None:
    stream = TextStream(TOKENIZER, ["stop"])
    assert stream.push(byte_ids("go stop there")) == "go "
    assert stream.stopped
    assert stream.count == len("go stop")
    assert stream.push(byte_ids("more")) == "" == stream.flush()
    assert stream.count == len("go stop")


def test_the_beginning_of_a_stop_string_is_held_back() -> None:
    assert pieces(byte_ids("ssto!"), ("stop",)) == ["", "s", "", "", "sto!", ""]


def test_text_held_back_is_returned_by_flush() -> None:
    assert pieces(byte_ids("a st"), ("stop",)) == ["a", " ", "", "", "st"]


@pytest.mark.parametrize(
    "ids",
    [
        byte_ids("x stop"),
        [*byte_ids("x "), word("st"), word("op")],
        [*byte_ids("x "), word("stop")],
    ],
)
def test_a_stop_string_in_any_tokens(ids: list[int]) -> None:
    stream = TextStream(TOKENIZER, ["stop"])
    assert "".join(stream.push([i]) for i in ids) == "x "
    assert stream.stopped
    assert stream.count == len(ids)


def test_a_stop_string_may_begin_inside_a_token() -> None:
    assert "".join(pieces([word("stop"), word("de")], ("pd",))) == "sto"


def test_the_stop_string_that_is_completed_first_counts() -> None:
    assert "".join(pieces([word("ab"), *byte_ids("cd")], ("bcd", "bc"))) == "a"
    assert first_stop("abc", ["abc", "b"]) == 1
    assert first_stop("abc", ["bc", "abc"]) == 0
    assert first_stop("abc", []) is None


def test_a_stop_string_of_many_bytes() -> None:
    assert "".join(pieces(byte_ids("ein Käse €5"), ("€",))) == "ein Käse "


def test_a_repeated_start_of_a_stop_string() -> None:
    assert "".join(pieces(byte_ids("aaab"), ("aab",))) == "a"
    assert held_back("xaa", ["aab"]) == 2
    assert held_back("x", ["aab"]) == 0


def test_an_empty_stop_string_is_an_error() -> None:
    with pytest.raises(UsageError, match="empty"):
        TextStream(TOKENIZER, [""])


@pytest.mark.parametrize("seed", range(30))
def test_rounds_of_any_length_give_the_same_text(seed: int) -> None:
    rng = random.Random(seed)
    ids = byte_ids("".join(rng.choice("ab é\n") for _ in range(60)))
    stops = ("ab ", "é\n", "bab")
    whole = TOKENIZER.decode(ids)
    ends = [whole.find(s) + len(s) for s in stops if s in whole]
    expected = whole if not ends else whole[: first_stop(whole, stops)]
    rounds = list(cut_into_rounds(ids, rng))
    found = list(decode_text(TOKENIZER, rounds, stops))
    assert "".join(each.text for each in found) == expected
    assert found[-1].round.stop == ("stop" if ends else "length")


def cut_into_rounds(ids: list[int], rng: random.Random) -> list[Round]:
    rounds = []
    while ids:
        size = rng.randint(1, 6)
        emitted, ids = tuple(ids[:size]), ids[size:]
        stop = None if ids else "length"
        rounds.append(Round(emitted[:-1], len(emitted) - 1, emitted, stop=stop))
    return rounds


# --- rounds


def test_a_stop_string_inside_an_accepted_draft_cuts_the_round() -> None:
    emitted = (*byte_ids("x"), word("stop"), *byte_ids("tail"))
    rounds = [Round(emitted[:-1], 5, emitted), Round((), 0, (word("a"),), stop="length")]
    [only] = decode_text(TOKENIZER, rounds, ["stop"])
    assert only.text == "x"
    assert only.round.emitted == emitted[:2]
    assert only.round.stop == "stop"
    assert Statistics.of([only.round]).new_tokens == 2


def test_a_stop_string_across_rounds() -> None:
    rounds = [Round((), 0, (word("st"),)), Round((), 0, (word("op"),)), Round((), 0, (word("a"),))]
    found = list(decode_text(TOKENIZER, rounds, ["stop"]))
    assert [each.text for each in found] == ["", ""]
    assert [each.round.stop for each in found] == [None, "stop"]


def test_no_more_is_decoded_after_a_stop_string() -> None:
    def endless() -> Any:
        while True:
            yield Round((), 0, (word("stop"),))

    assert len(list(decode_text(TOKENIZER, endless(), ["stopstop"]))) == 2


def test_the_last_round_returns_text_held_back() -> None:
    rounds = [Round((), 0, (word("st"),), stop="length")]
    assert [each.text for each in decode_text(TOKENIZER, rounds, ["stop"])] == ["st"]


def test_an_empty_stop_string_is_an_error_before_anything_is_decoded() -> None:
    with pytest.raises(UsageError):
        decode_text(TOKENIZER, iter(()), [""])


# --- prompts


class Chatty:
    """A tokenizer with a chat template; it adds 99 as beginning-of-text token."""

    chat_template = "there is one"

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [99] * add_special_tokens + [ord(c) for c in text]}

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        assert options == {"add_generation_prompt": True, "tokenize": False}
        return "".join(f"<{m['role'][0]}>{m['content']}" for m in messages) + "<a>"


def test_plain_text_has_the_beginning_of_text_token() -> None:
    assert encode_prompt(Chatty(), "hi") == [99, ord("h"), ord("i")]


def test_a_chat_has_no_second_beginning_of_text_token() -> None:
    assert encode_prompt(Chatty(), "hi", chat=True) == [ord(c) for c in "<u>hi<a>"]


def test_messages_go_through_the_template() -> None:
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
    assert encode_prompt(Chatty(), messages=messages) == [ord(c) for c in "<s>be<u>hi<a>"]


def test_a_missing_chat_template_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no chat template") as caught:
        encode_prompt(TOKENIZER, "hi", chat=True)
    assert "--chat" in str(caught.value.hint)


def test_messages_on_which_the_template_fails() -> None:
    with pytest.raises(PromptError, match="fails on these"):
        encode_prompt(Chatty(), messages=[{"content": "who says so?"}])


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ range(10 ** 9) }}", "{{ 1 + 'a' }}"])
def test_whatever_a_template_raises_is_told_in_one_line(template: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    with pytest.raises(PromptError, match="fails on these") as caught:
        encode_prompt(tokenizer, "hi", chat=True)
    assert "\n" not in str(caught.value)


def test_a_broken_template_is_told_with_its_line() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = "{{ bos_token }}\n{% for %}"
    with pytest.raises(PromptError, match="the chat template is broken in line 2: "):
        encode_prompt(tokenizer, "hi", chat=True)
    tokenizer.chat_template = {"default": "{%", "rag": "{{ 1 }}"}
    with pytest.raises(PromptError, match="the chat template 'default' is broken in line 1: "):
        encode_prompt(tokenizer, "hi", chat=True)


def test_of_several_templates_the_default_is_taken_or_their_names_are_told() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = {"default": "{{ messages[0]['content'] }}", "rag": "{{ 1 }}"}
    assert encode_prompt(tokenizer, "hi", chat=True) == tokenizer("hi").input_ids
    tokenizer.chat_template = {"rag": "{{ 1 }}", "brief": "{{ 2 }}"}
    with pytest.raises(PromptError, match="several chat templates and no default: brief, rag"):
        encode_prompt(tokenizer, "hi", chat=True)


@pytest.mark.parametrize("given", [{}, {"text": "a", "messages": [{}]}])
def test_a_prompt_is_either_text_or_messages(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        encode_prompt(TOKENIZER, **given)


def test_half_a_character_is_refused_with_its_place() -> None:
    half = "ab" + chr(0xD83D)
    with pytest.raises(PromptError, match="character 3 of the prompt is half a character"):
        encode_prompt(TOKENIZER, half)
    prompts = [Prompt("fine", where="p.jsonl: line 1"), Prompt(half, where="p.jsonl: line 2")]
    with pytest.raises(PromptError, match=r"p\.jsonl: line 2: character 3"):
        encode_prompts(TOKENIZER, prompts)
