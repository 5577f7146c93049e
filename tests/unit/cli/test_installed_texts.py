"""What an installed user reads names no file and no folder that only the repository has."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import skipopt
from skipopt.cli.app import app

PACKAGE = Path(skipopt.__file__).parent
GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands  # type: ignore[attr-defined]
FOLDERS = "benchmarks|configs|docs|examples|native|results|tests|tools"
# A page, a path into a folder that the wheel lacks, a module in one, or a target of the Makefile.
ONLY_IN_REPOSITORY = re.compile(
    rf"[\w-]\.md\b|(?<![\w./-])(?:{FOLDERS})/|-m (?:{FOLDERS})\.|`make [a-z]"
)


def help_page(name: str | None) -> str:
    parent = typer.Context(GROUP, info_name="skipopt")
    if name is None:
        return parent.get_help()
    return str(COMMANDS[name].get_help(typer.Context(COMMANDS[name], parent=parent)))


def messages(path: Path) -> Iterator[str]:
    """Every text in a module but docstrings: messages, hints, what is written to files."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings:
            yield node.value


def public_docstrings(name: str) -> Iterator[str]:
    value = getattr(skipopt, name)
    yield inspect.getdoc(value) or ""
    if inspect.isclass(value):
        for own in vars(value).values():
            yield inspect.getdoc(getattr(own, "__func__", own)) or ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see x (docs/reference/methods.md)", True),
        ("see workers.md", True),
        ("-o results/bench.json", True),
        ("run `python -m benchmarks.kills`", True),
        ("run `make demo`", True),
        ("the .md file of that name", False),
        ("-o my/results/bench.json", False),
        ("make one with `skipopt bench`", False),
    ],
)
def test_only_what_is_not_installed_is_found(text: str, found: bool) -> None:
    assert bool(ONLY_IN_REPOSITORY.search(text)) == found


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_names_only_what_is_installed(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skipopt.cli.help.help_width", lambda: 10_000)  # breaks no path
    assert not [line for line in help_page(name).splitlines() if ONLY_IN_REPOSITORY.search(line)]


def test_messages_name_only_what_is_installed() -> None:
    found = [(path, text) for path in PACKAGE.rglob("*.py") for text in messages(path)]
    assert len(found) > 1000
    assert not [each for each in found if ONLY_IN_REPOSITORY.search(each[1])]


@pytest.mark.parametrize("name", skipopt.__all__)
def test_public_docstrings_name_only_what_is_installed(name: str) -> None:
    assert not [text for text in public_docstrings(name) if ONLY_IN_REPOSITORY.search(text)]
