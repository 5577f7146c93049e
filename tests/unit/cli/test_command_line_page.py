"""docs/reference/command-line.md lists the commands and options that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from skipopt.cli.app import app

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "command-line.md").read_text(
    encoding="utf-8"
)
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTION = re.compile(r"`(-[\w-]+)`")


def section(heading: str) -> set[str]:
    text = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0].partition("\n\nValues")[0]
    return set(OPTION.findall(text))


COMMON = section("Options of all commands") - {"--help", "-h"}
MODEL = section("Options of all commands that load a model")


def documented(command: str) -> set[str]:
    [row] = re.findall(rf"^\| `skipopt {command}\b.*$", PAGE, re.M)
    loads_model = command not in ("show", "env")
    return set(OPTION.findall(row)) | COMMON | (MODEL if loads_model else set())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_lists_every_option_of_a_command(command: str) -> None:
    options = {
        name
        for parameter in COMMANDS[command].params
        for name in parameter.opts
        if name.startswith("-")
    }
    assert documented(command) == options


def test_the_page_lists_every_command() -> None:
    assert set(re.findall(r"^\| `skipopt (\w+)", PAGE, re.M)) == set(COMMANDS)
