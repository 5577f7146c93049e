"""What hints tell to do exists: options, commands, extras."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import skipopt
from skipopt.cli.app import app

PACKAGE = Path(skipopt.__file__).parent
ROOT = PACKAGE.parent
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = {name for each in COMMANDS.values() for p in each.params for name in p.opts}
OTHERS = {"--help", "--upgrade"}  # the latter is pip's


def texts(node: ast.AST) -> Iterator[str]:
    """The constant parts of a string."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def hints() -> Iterator[str]:
    """Every hint of the package, as far as it is constant."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                yield " … ".join(texts(node.value))


HINTS = sorted(set(hints()))


def test_there_are_hints() -> None:
    assert len(HINTS) > 50


@pytest.mark.parametrize("hint", HINTS)
def test_what_a_hint_names_exists(hint: str) -> None:
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", hint):
        assert option in OPTIONS or option in OTHERS, hint
    for command in re.findall(r"(?:`|: )skipopt ([a-z]+)", hint):
        assert command in COMMANDS, hint
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in re.findall(r"skipopt\[([a-z]+)\]", hint):
        assert extra in project["optional-dependencies"], hint
