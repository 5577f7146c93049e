"""Conversations: what the model is given in each turn, and what is kept of it."""

from __future__ import annotations

from typing import Any

import pytest
from support.chats import TURN, chat_tokenizer
from support.tiny import byte_tokenizer, tiny_llama, tiny_target

import skipopt
from skipopt.decoding.chat import Chat, running_text
from skipopt.errors import PromptError, UsageError
from skipopt.models.target import Target


@pytest.fixture(scope="module")
def target() -> Target:
    tokenizer = chat_tokenizer()
    return tiny_target(tiny_llama(vocabulary=len(tokenizer), context=2048), tokenizer)


def said(chat: Chat, text: str) -> str:
    return "".join(piece.text for piece in chat.send(text))


def test_a_turn_is_the_answer_to_all_messages_so_far(target: Target) -> None:
    chat = Chat(target, system="Be brief.", method="suffix", max_new_tokens=20)
    messages: list[dict[str, str]] = [{"role": "system", "content": "Be brief."}]
    for text in ("Hello", "Why?", "And then?"):
        messages.append({"role": "user", "content": text})
        made = skipopt.complete(target, messages, max_new_tokens=20)
        assert said(chat, text) == made.text
        messages.append({"role": "assistant", "content": made.text})
        assert chat.messages == messages
        assert chat.statistics is not None
        assert chat.statistics.prompt_tokens == made.statistics.prompt_tokens
        assert chat.statistics.rounds.new_tokens == len(made.tokens)
    assert chat.statistics.cached_tokens > 0


def test_a_new_beginning_forgets_the_turns(target: Target) -> None:
    chat = Chat(target, max_new_tokens=8)
    first = said(chat, "Hello")
    assert chat.system is None
    chat.restart()
    assert said(chat, "Hello") == first
    chat.restart("Be brief.")
    assert chat.system == "Be brief."
    assert chat.messages == [{"role": "system", "content": "Be brief."}]


def test_an_answer_that_is_stopped_counts_as_far_as_it_came(target: Target) -> None:
    chat = Chat(target, max_new_tokens=40)
    answer = chat.send("Hello")
    begun = "".join(next(answer).text for _ in range(5))
    answer.close()
    assert chat.messages[1] == {"role": "assistant", "content": begun}
    assert chat.statistics is not None
    assert chat.statistics.rounds.new_tokens == 5
    made = skipopt.complete(
        target, [*chat.messages, {"role": "user", "content": "Go on"}], max_new_tokens=40
    )
    assert said(chat, "Go on") == made.text


def test_a_turn_that_does_not_fit_changes_nothing(target: Target) -> None:
    chat = Chat(target, max_new_tokens=4)
    said(chat, "Hello")
    before = list(chat.messages)
    with pytest.raises(PromptError, match="context"):
        chat.send("x" * 2048)
    assert chat.messages == before


def test_an_answer_ends_with_the_turn_though_no_config_says_so(target: Target) -> None:
    [turn] = target.tokenizer.convert_tokens_to_ids([TURN])
    assert turn not in target.eos_ids

    def end_after(ids: Any, scores: Any) -> Any:
        scores[:, turn] = 100.0
        return scores

    made = skipopt.complete(
        target,
        [{"role": "user", "content": "Hello"}],
        max_new_tokens=8,
        logits_processor=[end_after],
    )
    assert (made.tokens, made.finish_reason) == ([turn], "eos")


def test_the_template_takes_variables_that_it_has(target: Target) -> None:
    quiet = Chat(target, template_kwargs={"quiet": True}, max_new_tokens=4)
    plain = Chat(target, max_new_tokens=4)
    for chat in (quiet, plain):
        said(chat, "Hello")
    assert quiet.statistics is not None
    assert plain.statistics is not None
    more = quiet.statistics.prompt_tokens - plain.statistics.prompt_tokens
    assert more == len("(quiet)")
    with pytest.raises(PromptError, match="`silent`"):
        Chat(target, template_kwargs={"silent": True}).send("Hello")
    with pytest.raises(UsageError, match="chat_template_kwargs"):
        skipopt.stream_generate(target, "Hello", chat_template_kwargs={"quiet": True})


def test_a_base_model_continues_the_text_of_all_turns() -> None:
    target = tiny_target(tiny_llama(vocabulary=257), byte_tokenizer())
    chat = Chat(target, max_new_tokens=8, stop=("\n",))
    first = said(chat, "def f():")
    second = said(chat, "def g():")
    whole = "def f():" + first + "\ndef g():"
    assert second == skipopt.complete(target, whole, max_new_tokens=8, stop="\n").text
    with pytest.raises(PromptError, match="no chat template"):
        Chat(target, template_kwargs={"quiet": True}).send("Hello")


def test_running_text_begins_a_line_for_each_turn() -> None:
    turns = [("system", "a"), ("user", "b"), ("assistant", " c\n"), ("user", "d")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert running_text(messages) == "a\nb c\nd"


def test_a_short_description(target: Target) -> None:
    assert repr(Chat(target, method="suffix")) == "Chat(suffix, 0 messages)"
