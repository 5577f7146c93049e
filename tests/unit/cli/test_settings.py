"""Precedence of option values, and the content of config files."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from skipopt.cli.settings import (
    FROM_ENVIRONMENT,
    WholeVariables,
    apply_config,
    read_config,
)
from skipopt.errors import UsageError
from skipopt.study.config import SearchConfig


class Parameter:
    def __init__(self, multiple: bool = False) -> None:
        self.multiple = multiple


KNOWN = {"max_new_tokens": Parameter(), "device": Parameter(), "stop": Parameter(multiple=True)}


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def parse(arguments: list[str]) -> dict[str, Any]:
    """What a small command receives."""
    seen: dict[str, Any] = {}
    app = typer.Typer(rich_markup_mode=None)

    @app.command(cls=WholeVariables, context_settings=FROM_ENVIRONMENT)
    def go(
        max_new_tokens: Annotated[int, typer.Option("--max-new-tokens")] = 1,
        stop: Annotated[list[str] | None, typer.Option("--stop")] = None,
        chat: Annotated[bool, typer.Option("--chat")] = False,
        config: Annotated[
            Path | None, typer.Option("--config", callback=apply_config, is_eager=True)
        ] = None,
    ) -> None:
        seen.update(max_new_tokens=max_new_tokens, stop=stop, chat=chat)

    @app.command(context_settings=FROM_ENVIRONMENT)
    def search(trials: Annotated[int, typer.Option("--trials")] = 1) -> None:
        return None

    app(["go", *arguments], standalone_mode=False)
    return seen


def test_flag_then_variable_then_file_then_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_file = ["--config", str(written(tmp_path, "max-new-tokens: 2"))]
    assert parse([])["max_new_tokens"] == 1
    assert parse(from_file)["max_new_tokens"] == 2
    monkeypatch.setenv("SKIPOPT_MAX_NEW_TOKENS", "3")
    assert parse(from_file)["max_new_tokens"] == 3
    assert parse([*from_file, "--max-new-tokens", "4"])["max_new_tokens"] == 4
    assert parse(["--max-new-tokens", "4", *from_file])["max_new_tokens"] == 4


def test_a_variable_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPOPT_CONFIG", str(written(tmp_path, "max_new_tokens: 5")))
    assert parse([])["max_new_tokens"] == 5


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "on",
        "yes",
        "012",
        "0x1f",
        "12:30",
        "1_000",
        "2024-01-31",
        "true",
        "1e3",
        "=",
        "<<",
    ],
)
def test_a_value_stays_what_was_written(tmp_path: Path, text: str) -> None:
    assert read_config(written(tmp_path, f"stop: [a, {text}]"), KNOWN) == {"stop": ["a", text]}


@pytest.mark.parametrize("text", ["true", "0x10", "1:30", "2024-01-31", "1.5", "9" * 5000])
def test_what_is_no_number_is_none_in_a_file_either(tmp_path: Path, text: str) -> None:
    with pytest.raises(typer.TyperException) as refused:
        parse(["--config", str(written(tmp_path, f"max-new-tokens: {text}"))])
    assert "--max-new-tokens" in refused.value.format_message()


@pytest.mark.parametrize("text", ["010", "10"])
def test_a_number_is_decimal(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, f"max-new-tokens: {text}\nchat: no")
    found = parse(["--config", str(path)])
    assert (found["max_new_tokens"], found["chat"]) == (10, False)


@pytest.mark.parametrize("text", ["\n\n", "a b", " end "])
def test_a_variable_holds_one_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPOPT_STOP", text)
    assert parse([])["stop"] == [text]


def test_flags_and_lists_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "chat: true\nstop: ['a b', c]\n")
    assert parse(["--config", str(path)]) == {
        "max_new_tokens": 1,
        "stop": ["a b", "c"],
        "chat": True,
    }


def test_options_of_other_commands_are_ignored(tmp_path: Path) -> None:
    path = written(tmp_path, "trials: 7\nmax-new-tokens: 2\n")
    assert parse(["--config", str(path)])["max_new_tokens"] == 2


def test_a_value_of_the_wrong_type_is_a_usage_error(tmp_path: Path) -> None:
    path = written(tmp_path, "max-new-tokens: many")
    with pytest.raises(typer.TyperException) as caught:
        parse(["--config", str(path)])
    assert "--max-new-tokens" in caught.value.format_message()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "# nothing\n", "device: null\n"])
def test_a_file_may_be_empty(tmp_path: Path, text: str) -> None:
    assert read_config(written(tmp_path, text), KNOWN) == {}


def test_keys_are_written_with_either_dash(tmp_path: Path) -> None:
    for key in ("max-new-tokens", "max_new_tokens"):
        assert read_config(written(tmp_path, f"{key}: 3"), KNOWN) == {"max_new_tokens": "3"}


def test_one_value_for_an_option_that_takes_several(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, "stop: end"), KNOWN) == {"stop": ["end"]}


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("max-new-token: 3", "'max-new-token'", "max-new-tokens"),
        ("color: red", "'color'", "without the leading dashes"),
        ("- device", "a mapping", None),
        ("device: [cpu, cuda]", "a list", None),
        ("device: {name: cpu}", "a mapping", None),
        ("device: 'cpu", "not YAML", None),
        ("device: cpu\n  x: 1", "line 2", None),
        ("device: " + "[" * 5000, "nested too deeply", None),
        ("device: cpu\nstop: a\ndevice: cuda", "line 3: .*'device' is there twice", None),
    ],
)
def test_invalid_files(tmp_path: Path, text: str, problem: str, hint: str | None) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        read_config(written(tmp_path, text), KNOWN)
    assert "\n" not in str(caught.value)
    assert hint is None or hint in str(caught.value.hint)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml"):
        read_config(tmp_path / "none.yaml", KNOWN)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match="not"):
        read_config(path, KNOWN)


def test_the_file_of_defaults_holds_those_of_a_search() -> None:
    names = {field.name for field in fields(SearchConfig)}
    path = Path(__file__).parents[3] / "configs" / "default.yaml"
    found = read_config(path, dict.fromkeys(names, Parameter()))
    assert found
    assert found == {name: str(getattr(SearchConfig(), name)) for name in found}
