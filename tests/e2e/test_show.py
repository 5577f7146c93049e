"""`skipopt show` as a user types it: what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from skipopt.cli.app import main
from skipopt.masks import SkipMask
from skipopt.searching.journal import Journal, Trial

ROOT = Path(__file__).parents[2]
FILES = ("profile.yaml", "bench.json", "search.journal")
# A word of each page: of its title.
TITLES = dict(zip(FILES, ("Profile of builtin", "Speedup, greedy", "best 1 of 1"), strict=True))


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Show = Callable[..., Ended]


@pytest.fixture
def show(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Show:
    """Runs `skipopt show …` in a folder that holds one file of each kind."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests" / "golden" / "profile.yaml", "profile.yaml")
    shutil.copy(ROOT / "results" / "methods-greedy.json", "bench.json")
    journal = Journal(tmp_path / "search.journal", 4, {"objective": "speed"})
    journal.append(Trial(SkipMask.of(4, [1]), 1.5, {}))

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = main(["show", *map(str, arguments)])
        return Ended(code, *capsys.readouterr())

    return run


def expect_error(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.err
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
    assert all(word in ended.err for word in words), ended.err
    assert "bug" not in ended.err


@pytest.mark.parametrize("file", FILES)
def test_a_picture_and_a_page_of_every_kind_of_file(show: Show, file: str) -> None:
    plain = show(file)
    for output in (f"{file}.png", "page.HTML"):
        ended = show(file, "-o", output)
        assert (ended.code, ended.err) == (0, f"wrote {output}\n")
        assert ended.out == plain.out
    assert Path(f"{file}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    page = Path("page.HTML").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")
    assert TITLES[file] in page
    assert "<svg" in page


def test_one_document_stays_one_document(show: Show) -> None:
    ended = show("profile.yaml", "--output", "out.png", "--json", "-q")
    assert json.loads(ended.out)["drafting"]["gamma"] == 6
    assert ended.err == ""
    assert Path("out.png").exists()


@pytest.mark.parametrize("output", ["out.pdf", "out", "out.svg", ".png", "png", "out.png/"])
def test_another_ending_is_refused_before_anything_is_read(
    show: Show, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("skipopt.cli.show.read_start", read)
    if output == "out.png/":  # a path has no / at its end
        output = "out.png/page"
    expect_error(show("none.yaml", "-o", output), 2, output, ".png", ".html")


def test_a_file_that_is_none_leaves_the_old_picture(show: Show) -> None:
    Path("out.html").write_text("old")
    Path("other.json").write_text('{"a": 1}')
    expect_error(show("none.yaml", "-o", "out.html"), 1, "none.yaml")
    expect_error(show("other.json", "-o", "out.html"), 1, "other.json")
    assert Path("out.html").read_text() == "old"


@pytest.mark.parametrize(
    ("output", "words"),
    [("none/out.png", ["cannot write", "mkdir -p none"]), ("folder.html", ["cannot write"])],
)
def test_a_place_that_cannot_be_written_to(show: Show, output: str, words: list[str]) -> None:
    Path("folder.html").mkdir()
    before = sorted(os.listdir())
    expect_error(show("profile.yaml", "-o", output), 1, *words)
    assert sorted(os.listdir()) == before
    assert os.listdir("folder.html") == []


@pytest.mark.parametrize("output", ["out.png", "out.html"])
def test_without_matplotlib_one_line_says_what_to_install(
    show: Show, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # type: ignore[arg-type]
    before = sorted(os.listdir())
    ended = show("profile.yaml", "-o", output)
    expect_error(ended, 1, "matplotlib", "pip install 'skipopt[plots]'")
    assert sorted(os.listdir()) == before
    assert show("profile.yaml").code == 0, "the terminal needs none"


def test_matplotlib_is_loaded_for_pictures_only(show: Show) -> None:
    code = (
        "import sys; from skipopt.cli.app import main; main(['show', 'profile.yaml']);"
        "sys.exit(bool({'matplotlib', 'jinja2', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_masks_by_length_are_shown(show: Show) -> None:
    text = Path("profile.yaml").read_text(encoding="utf-8")
    bucket = "{from: 512, mask: {attention: [0], mlp: []}, drafting: {gamma: 4, tau: 0.25}}"
    Path("long.yaml").write_text(
        text.replace("predicted:\n", f"contexts: [{bucket}]\npredicted:\n")
    )
    assert "from 512    tokens on: γ = 4, τ = 0.25" in show("long.yaml").out
    assert json.loads(show("long.yaml", "--json").out)["contexts"][0]["from"] == 512
    assert "contexts" not in json.loads(show("profile.yaml", "--json").out)
