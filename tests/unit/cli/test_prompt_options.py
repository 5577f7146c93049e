"""Which prompts a command uses, and what it tells about them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from skipopt.cli.output import Output
from skipopt.cli.prompt_options import held_out, prompts_for, read_prompts
from skipopt.errors import UsageError
from skipopt.models.target import Target
from skipopt.prompts import PromptSet, by_category, load_prompts

QUIET = Output(quiet=True)


def target(model_id: str = "org/model", chat_template: str | None = None) -> Target:
    tokenizer = SimpleNamespace(chat_template=chat_template)
    return cast(Target, SimpleNamespace(model_id=model_id, tokenizer=tokenizer))


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "p.csv"
    path.write_text("question\nWho?\nWhen?\nWhy?\n")
    return path


def test_what_was_recognized_is_told_before_a_model_is_loaded(
    chats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = read_prompts(chats, None, Output())
    assert given == load_prompts(chats)
    assert told(capsys) == [f"{chats}: 3 prompts from `question`"]


def test_a_key_needs_a_file() -> None:
    assert read_prompts(None, None, QUIET) is None
    with pytest.raises(UsageError, match="--prompt-key names a key of --prompts"):
        read_prompts(None, "question", QUIET)


def test_the_default_depends_on_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert prompts_for(None, target("builtin"), Output()) == load_prompts()
    assert told(capsys) == []
    assert prompts_for(None, target(chat_template="{{ x }}"), Output()).source == "general"
    (line,) = told(capsys)
    assert line.startswith("built-in prompts (chat, writing, summarizing, translation, question")
    assert "through the model's chat template (sha256:" in line


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{ x }}", "3 chats through the model's chat template"), (None, "3 chats as plain text: ")],
)
def test_how_given_chats_are_taken_is_told(
    chats: Path, template: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = load_prompts(chats)
    assert prompts_for(given, target(chat_template=template), Output()) is given
    assert told(capsys)[0].startswith(words)


@pytest.mark.parametrize(("count", "used"), [(None, 16), (8, 8), (48, 48), (99, 48)])
def test_the_number_of_held_out_prompts(count: int | None, used: int, capsys: Any) -> None:
    general = load_prompts(model_id="org/model")
    kept = held_out(general, count, Output()).held_out
    assert kept == general.held_out[:used]
    assert set(by_category(kept).values()) == {used // 8}
    assert len(told(capsys)) == (used < 48)


def test_all_given_prompts_are_used_by_default(chats: Path) -> None:
    given: PromptSet = load_prompts(chats)
    assert held_out(given, None, QUIET) == given
