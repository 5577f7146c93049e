"""`skipopt show` as a user types it: what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from support.command_line import Cli, expect_error

from skipopt.masks import SkipMask
from skipopt.storage.base import Trial
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.study_key import StudyIdentity, StudyLocation, study_key
from skipopt.storage.workers import DEFAULT_STUDY

IDENTITY = StudyIdentity(4, model="sha256:0", prompts="sha256:1", objective="speed")
ROOT = Path(__file__).parents[2]
FILES = ("profile.yaml", "bench.json", "search.journal")
# A word of each page: of its title.
TITLES = dict(zip(FILES, ("Profile of builtin", "Speedup, greedy", "best 1 of 1"), strict=True))


@pytest.fixture
def show(cli: Cli, tmp_path: Path) -> Cli:
    """Runs `skipopt show …` in a folder that holds one file of each kind."""
    shutil.copy(ROOT / "tests" / "golden" / "profile.yaml", "profile.yaml")
    shutil.copy(ROOT / "results" / "methods-greedy.json", "bench.json")
    journal = OptunaStorage(StudyLocation("search.journal", DEFAULT_STUDY, IDENTITY))
    journal.append(Trial(SkipMask.of(4, [1]), 1.5))
    return partial(cli, "show")


def share(dtype: str, *values: float) -> str:
    """Write a study with trials of these values to `shared.journal`, and return its full name."""
    identity = replace(IDENTITY, dtype=dtype)
    name = study_key("night", identity)
    with closing(OptunaStorage(StudyLocation("shared.journal", name, identity, True))) as storage:
        for layer, value in enumerate(values):
            storage.append(Trial(SkipMask.of(4, [layer]), value))
    return name


SHARED = ("--storage", "shared.journal", "--study", "night")


@pytest.mark.usefixtures("plots")
@pytest.mark.parametrize("file", FILES)
def test_a_picture_and_a_page_of_every_kind_of_file(show: Cli, file: str) -> None:
    plain = show(file)
    for output in (f"{file}.png", "page.HTML", "figure.svg", "figure.pdf"):
        ended = show(file, "-o", output)
        assert (ended.code, ended.err) == (0, f"wrote {output}\n")
        assert ended.out == plain.out
    assert Path(f"{file}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    page = Path("page.HTML").read_text(encoding="utf-8")
    assert Path("figure.svg").read_bytes().startswith(b"<?xml")
    assert Path("figure.pdf").read_bytes().startswith(b"%PDF")
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")
    assert TITLES[file] in page
    assert "<svg" in page


@pytest.mark.usefixtures("plots")
def test_one_document_stays_one_document(show: Cli) -> None:
    ended = show("profile.yaml", "--output", "out.png", "--json", "-q")
    assert json.loads(ended.out)["drafting"]["gamma"] == 6
    assert ended.err == ""
    assert Path("out.png").exists()


@pytest.mark.parametrize("output", ["out.eps", "out", "out.txt", ".png", "png", "out.png/"])
def test_an_unknown_output_suffix_is_refused_before_reading(
    show: Cli, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("skipopt.cli.show.read_start", read)
    if output == "out.png/":  # a path has no / at its end
        output = "out.png/page"
    expect_error(show("none.yaml", "-o", output), 2, output, ".png", ".html")


def test_an_invalid_file_leaves_the_old_picture(show: Cli) -> None:
    Path("out.html").write_text("old")
    Path("other.json").write_text('{"a": 1}')
    expect_error(show("none.yaml", "-o", "out.html"), 1, "none.yaml")
    expect_error(show("other.json", "-o", "out.html"), 1, "other.json")
    assert Path("out.html").read_text() == "old"


@pytest.mark.usefixtures("plots")
@pytest.mark.parametrize(
    ("output", "words"),
    [("none/out.png", ["cannot write", "mkdir -p none"]), ("folder.html", ["cannot write"])],
)
def test_a_place_that_cannot_be_written_to(show: Cli, output: str, words: list[str]) -> None:
    Path("folder.html").mkdir()
    before = sorted(os.listdir())
    expect_error(show("profile.yaml", "-o", output), 1, *words)
    assert sorted(os.listdir()) == before
    assert os.listdir("folder.html") == []


@pytest.mark.usefixtures("plots")
@pytest.mark.parametrize("output", ["out.png", "out.html"])
def test_without_matplotlib_an_error_names_the_extra(
    show: Cli, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # type: ignore[arg-type]
    before = sorted(os.listdir())
    ended = show("profile.yaml", "-o", output)
    expect_error(ended, 1, "matplotlib", "pip install 'skipopt[plots]'")
    assert sorted(os.listdir()) == before
    assert show("profile.yaml").code == 0, "terminal output needs no matplotlib"


def test_matplotlib_is_loaded_for_pictures_only(show: Cli) -> None:
    code = (
        "import sys; from skipopt.cli.app import main; main(['show', 'profile.yaml']);"
        "sys.exit(bool({'matplotlib', 'jinja2', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# --- figures by name


@pytest.mark.usefixtures("plots")
def test_a_figure_is_selected_by_its_name(show: Cli) -> None:
    for name in ("mask", "speedup", "prediction"):
        assert show("profile.yaml", "--plot", name, "-o", f"{name}.png").code == 0
    assert (
        len({Path(f"{name}.png").read_bytes() for name in ("mask", "speedup", "prediction")}) == 3
    )
    assert show("profile.yaml", "-o", "first.png").code == 0
    assert Path("first.png").read_bytes() == Path("mask.png").read_bytes()


def test_a_figure_that_the_file_has_nothing_for_is_one_clear_line(show: Cli) -> None:
    expect_error(
        show("profile.yaml", "--plot", "category", "-o", "x.png"),
        1,
        "nothing for category",
        "mask",
    )
    assert not Path("x.png").exists()
    expect_error(show("profile.yaml", "--plot", "pie", "-o", "x.png"), 2, "'pie'", "sensitivity")
    expect_error(show("profile.yaml", "--plot", "mask"), 2, "--plot", "-o")


# --- other results


@pytest.mark.usefixtures("plots")
def test_a_check_is_shown_and_drawn(show: Cli) -> None:
    ended = show(ROOT / "results" / "check.json", "-o", "check.png")
    assert ended.code == 0, ended.err
    assert "pass" in ended.out
    assert "1.15× (1.10–1.21)" in ended.out
    assert Path("check.png").exists()


@pytest.mark.usefixtures("plots")
def test_a_text_is_shown_with_its_positions(show: Cli) -> None:
    facts = {"tokens": [1, 2], "method": "suffix", "new_tokens": 2, "tokens_per_second": 10.0}
    facts |= {"seconds": 0.2, "prefill_seconds": 0.1, "acceptance_rate": 0.5}
    facts |= {"mean_acceptance_length": 2.0, "acceptance_by_position": [0.75, 0.25]}
    Path("run.json").write_text(json.dumps({**facts, "stop_reason": "length"}))
    ended = show("run.json", "--plot", "position", "-o", "run.svg")
    assert ended.code == 0, ended.err
    assert "1: 75%, 2: 25%" in ended.out
    assert "75%" in Path("run.svg").read_text(encoding="utf-8")


@pytest.mark.usefixtures("plots")
def test_two_profiles_are_compared(show: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path("profile.yaml").read_text(encoding="utf-8")
    Path("other.yaml").write_text(
        text.replace("speedup: {median: 1.393, low: 1.35", "speedup: {median: 1.2, low: 1.1")
    )
    monkeypatch.setenv("COLUMNS", "80")  # both fit side by side
    ended = show("profile.yaml", "other.yaml", "-o", "both.html")
    assert ended.code == 0, ended.err
    [row] = [line for line in ended.out.splitlines() if "measured decoding" in line]
    assert row.index("1.39× (1.35–1.43)") < row.index("1.20× (1.10–1.43)")
    assert list(json.loads(show("profile.yaml", "other.yaml", "--json").out)) == [
        "profile.yaml",
        "other.yaml",
    ]
    page = Path("both.html").read_text(encoding="utf-8")
    assert "1.20× (1.10–1.43)" in page


def test_two_bench_results_are_compared(show: Cli) -> None:
    ended = show("bench.json", ROOT / "results" / "methods-t1.0.json")
    assert ended.code == 0, ended.err
    assert "methods-t1.0.json" in ended.out
    expect_error(show("bench.json", "profile.yaml"), 2, "cannot be compared")


@pytest.mark.parametrize("width", [80, 60, 40])
@pytest.mark.parametrize("file", FILES)
def test_no_screen_cuts_a_number_or_a_name(
    show: Cli, file: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = show(file).out
    monkeypatch.setenv("COLUMNS", str(width))
    narrow = show(file).out
    assert max(map(len, narrow.splitlines())) <= width
    found = set(strip_frames(narrow).split())
    for word in set(strip_frames(wide).split()) - {"method"}:  # blocks begin with the name alone
        assert len(word) > width // 2 or word in found


def strip_frames(text: str) -> str:
    return "".join(" " if "\u2500" <= c <= "\u257f" else c for c in text)


def test_masks_by_length_are_shown(show: Cli) -> None:
    text = Path("profile.yaml").read_text(encoding="utf-8")
    bucket = "{min_context: 512, mask: {attention: [0], mlp: []}, drafting: {gamma: 4, tau: 0.25}}"
    Path("long.yaml").write_text(
        text.replace("predicted:\n", f"contexts: [{bucket}]\npredicted:\n")
    )
    assert "from 512    tokens on: γ = 4, τ = 0.25" in show("long.yaml").out
    assert json.loads(show("long.yaml", "--json").out)["contexts"][0]["min_context"] == 512
    assert "contexts" not in json.loads(show("profile.yaml", "--json").out)


# --- a study that workers share


@pytest.mark.usefixtures("plots")
def test_a_shared_study_is_shown_by_its_name(show: Cli) -> None:
    whole = share("float32", 0.5, 1.25, 1.0)
    ended = show(*SHARED, "--limit", 2)
    assert ended.code == 0, ended.err
    assert "the best 2 of 3 trials" in ended.out
    assert ended.out.index("attn 1") < ended.out.index("attn 2")
    shown = json.loads(show(*SHARED, "--json").out)
    assert [each["value"] for each in shown["best"]] == [1.25, 1.0, 0.5]
    assert shown["best"][0].items() >= {"mask": "attn 1", "value": 1.25}.items()
    assert shown["search"]["dtype"] == "float32"
    assert json.loads(show(*SHARED[:3], whole, "--json").out) == shown
    assert show(*SHARED, "-o", "out.png").code == 0
    assert Path("out.png").exists()


def test_studies_of_one_name_are_refused_until_one_is_selected(show: Cli) -> None:
    names = share("float32", 1.0), share("bfloat16", 0.5, 1.5)
    ended = show(*SHARED)
    expect_error(
        ended, 1, "2 studies 'night'", f"{names[0]} (dtype float32)", f"{names[1]} (dtype bf"
    )
    assert "objective" not in ended.err
    assert json.loads(show(*SHARED[:3], names[1], "--json").out)["trials"] == 2


def test_looking_at_a_shared_study_changes_nothing(show: Cli) -> None:
    share("float32", 1.0)
    before = Path("shared.journal").read_bytes()
    show(*SHARED)
    assert Path("shared.journal").read_bytes() == before
    expect_error(show("--storage", "none.journal"), 1, "no journal 'none.journal'")
    assert not Path("none.journal").exists()


def test_a_file_is_shown_though_a_storage_is_set(
    show: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPOPT_STORAGE", "none.journal")
    assert show("search.journal").code == 0
    assert show().code == 1


def test_files_that_cannot_be_shown_are_refused(show: Cli) -> None:
    share("float32")
    expect_error(show(), 2, "nothing to show", "FILE", "--storage")
    expect_error(show("--study", "night"), 2, "--storage")
    expect_error(show("--storage", "sqlite:///x.db"), 2, "SQLite")
    expect_error(show("--storage", "shared.journal"), 1, "no study 'skipopt'", "night-")
    expect_error(show(*SHARED), 1, "no trial yet")
    expect_error(show("shared.journal"), 1, "no study 'skipopt'", "night-", "--study")
