"""Where the turn of a chat model ends."""

from __future__ import annotations

from typing import Any

import pytest
from support.tiny import END, byte_tokenizer, tiny_llama, tiny_target

from skipopt.decoding.text_prompt import ending_turns
from skipopt.end_of_turn import end_of_turn_ids
from skipopt.models.identity import eos_ids

TURN = "<|turn|>"
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ end }}{% endif %}\n{% endfor %}"
)


def tokenizer(end: str | None) -> Any:
    """With a template that puts `end` after an answer."""
    made = byte_tokenizer()
    made.add_special_tokens({"additional_special_tokens": [TURN]})
    if end is not None:
        made.chat_template = TEMPLATE.replace("{{ end }}", end)
    return made


@pytest.mark.parametrize(
    ("end", "more"),
    [(None, set()), (TURN, {TURN}), (f" {TURN}", {TURN}), ("", set()), (f".{TURN}", set())],
)
def test_a_special_token_after_an_answer_ends_a_turn(end: str | None, more: set[str]) -> None:
    made = tokenizer(end)
    expected = made.convert_tokens_to_ids([END, *more])
    assert end_of_turn_ids(made) == set(expected)


def test_a_template_that_fails_adds_nothing() -> None:
    made = tokenizer(None)
    made.chat_template = "{{ raise_exception('no') }}"
    assert end_of_turn_ids(made) == {made.eos_token_id}


def model_with(generation: Any, own: Any) -> Any:
    model = tiny_llama()
    model.generation_config.eos_token_id, model.config.eos_token_id = generation, own
    return model


@pytest.mark.parametrize(
    ("generation", "own", "expected"),
    [(None, 3, {3}), ([], 3, {3}), ([5, 6], 3, {5, 6}), ([], [], set()), (7, None, {7})],
)
def test_an_empty_list_hides_nothing(generation: Any, own: Any, expected: set[int]) -> None:
    assert eos_ids(model_with(generation, own)) == expected


def test_a_chat_ends_at_the_union() -> None:
    made = tokenizer(TURN)
    target = ending_turns(tiny_target(model_with([5], 3), made))
    assert target.eos_ids == {5, 3, made.eos_token_id, made.convert_tokens_to_ids(TURN)}
