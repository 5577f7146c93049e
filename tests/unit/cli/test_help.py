"""Help pages: options by topic, whole summaries, and the width of the terminal."""

from __future__ import annotations

import re

import pytest
import typer

from skipopt.cli.app import app
from skipopt.cli.option_groups import MODEL_OPTIONS, SAMPLING_OPTIONS, SEARCH_OPTIONS

GROUP = typer.main.get_command(app)


def page(name: str | None = None) -> str:
    parent = typer.Context(GROUP, info_name="skipopt")
    if name is None:
        return parent.get_help()
    command = GROUP.commands[name]  # type: ignore[attr-defined]
    return str(command.get_help(typer.Context(command, parent=parent, info_name=name)))


def panels(text: str) -> dict[str, str]:
    """The text under each heading."""
    found, heading = dict[str, str](), ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            heading = line.rstrip(":")
        found[heading] = found.get(heading, "") + line + "\n"
    return found


def test_options_stand_under_their_topic() -> None:
    found = panels(page("search"))
    for heading, options in (("Search", SEARCH_OPTIONS), ("Model", MODEL_OPTIONS)):
        for name in options.keys() - {"seed"}:
            assert f"--{name.replace('_', '-')}" in found[heading]
    assert "--output" in found["Options"]
    assert "--json" in found["Output and configuration"]
    sampling = panels(page("run"))["Sampling"]
    for name in SAMPLING_OPTIONS.keys() - {"seed"}:
        assert re.search(rf"--{name.replace('_', '-')}\b", sampling)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("name", [None, "search", "show"])
def test_a_page_fits_the_terminal(
    name: str | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = page(name).splitlines()
    words = [line.strip() for line in lines if len(line) > width]
    assert all(" " not in word for word in words), "only single words may be longer"


def test_summaries_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = " ".join(page().split())
    assert "..." not in text.partition("Commands:")[2]
    assert "paired, interleaved timing." in text
