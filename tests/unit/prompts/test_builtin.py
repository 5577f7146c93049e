"""The general built-in set: complete, split by category, and given through the chat template."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from skipopt.detokenizer import encode_prompts, template_hash
from skipopt.errors import PromptError
from skipopt.prompts import GENERAL, Message, Prompt, PromptSet, by_category, load_prompts
from skipopt.study.calibration import split_prompts
from skipopt.study.config import SearchConfig

CATEGORIES = {
    "chat", "writing", "summarizing", "translation", "question-answering", "arithmetic", "code",
    "extraction",
}  # fmt: skip
WITH_CONTEXT = ("summarizing", "extraction")


@pytest.fixture(scope="module")
def general() -> PromptSet:
    return load_prompts(model_id="some/model")


def words(prompt: Prompt) -> list[str]:
    return (prompt.single_turn or "").split()


def test_the_set_depends_on_the_model(general: PromptSet) -> None:
    assert general.source == GENERAL
    assert load_prompts(model_id="builtin") == load_prompts()
    assert load_prompts().digest != general.digest


def test_every_part_has_every_category(general: PromptSet) -> None:
    parts = {5: general.calibration, 4: general.validation, 6: general.held_out}
    for count, part in parts.items():
        assert by_category(part) == dict.fromkeys(by_category(part), count)
        assert set(by_category(part)) == CATEGORIES


def test_no_prompt_is_in_two_parts(general: PromptSet) -> None:
    everything = [*general.calibration, *general.validation, *general.held_out]
    texts = Counter(" ".join(words(prompt)) for prompt in everything)
    assert len(texts) == len(everything) == 120


def test_contexts_are_of_100_to_250_words(general: PromptSet) -> None:
    everything = [*general.calibration, *general.validation, *general.held_out]
    for prompt in everything:
        if prompt.category in WITH_CONTEXT:
            context = (prompt.single_turn or "").rpartition("\n\n")[2]
            assert 100 <= len(context.split()) <= 250
    short = [len(words(p)) for p in everything if p.category not in WITH_CONTEXT]
    assert min(short) < 12
    assert max(short) > 45


def test_any_first_few_are_mixed(general: PromptSet) -> None:
    for part in (general.calibration, general.validation, general.held_out):
        assert {prompt.category for prompt in part[:8]} == CATEGORIES


def test_a_search_scores_and_validates_on_its_own_parts(general: PromptSet) -> None:
    scored, validated = split_prompts(general, SearchConfig())
    assert scored == list(general.calibration[:16])
    assert validated == list(general.validation[:16])
    assert by_category(scored) == dict.fromkeys(by_category(scored), 2)


# How chats are given


class Tokenizer:
    """Tokens are the characters' codes; the template writes roles, tools and calls."""

    def __init__(self, template: Any) -> None:
        self.chat_template = template

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [0] * add_special_tokens + [ord(c) for c in text]}

    def apply_chat_template(self, messages: Any, tools: Any = None, **options: Any) -> str:
        listed = f"{tools}" if tools else ""
        return listed + "".join(f"<{m['role']}>{m['content']}" for m in messages)


def text_of(tokenizer: Tokenizer, prompt: Prompt) -> str:
    (ids,) = encode_prompts(tokenizer, [prompt])
    return "".join(chr(i) for i in ids if i)


CHAT = Prompt(messages=(Message("user", "Hi"),), where="p.jsonl: line 4")
LONGER = Prompt(messages=(Message("system", "Be"), Message("user", "Hi")), where="p.jsonl: line 5")
TOOLED = Prompt(messages=CHAT.messages, tools='[{"name": "clock"}]', where="p.jsonl: line 6")


def test_chats_go_through_the_template() -> None:
    assert text_of(Tokenizer("{{ messages }}"), LONGER) == "<system>Be<user>Hi"


def test_without_a_template_one_user_message_is_plain_text() -> None:
    assert text_of(Tokenizer(None), CHAT) == "Hi"


@pytest.mark.parametrize("prompt", [LONGER, TOOLED])
def test_without_a_template_other_chats_are_refused(prompt: Prompt) -> None:
    with pytest.raises(PromptError, match=r"line [56]: the model has no chat template"):
        encode_prompts(Tokenizer(None), [prompt])


def test_tools_are_passed_on_or_refused() -> None:
    assert "clock" in text_of(Tokenizer("{% if tools %}"), TOOLED)
    with pytest.raises(PromptError, match="line 6: the model's chat template takes no `tools`"):
        encode_prompts(Tokenizer("{{ messages }}"), [TOOLED])


def test_calls_of_tools_are_refused_where_the_template_drops_them() -> None:
    called = Message("assistant", "", '{"tool_calls": [{"id": "1"}]}')
    prompt = Prompt(messages=(Message("user", "Hi"), called, Message("tool", "10")))
    with pytest.raises(PromptError, match="takes no `tool_calls`"):
        encode_prompts(Tokenizer("{{ messages }}"), [prompt])


def test_the_hash_of_a_template_tells_templates_apart() -> None:
    templates = ["a", "b", {"default": "a", "tool_use": "b"}]
    hashes = {template_hash(Tokenizer(each)) for each in templates}
    assert len(hashes) == 3
    assert template_hash(Tokenizer(None)) is None
