"""Mutants of a tiny project: caught, survived, not applicable; kept results; the checkout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools import mutants
from tools.mutants import CAUGHT, NOT_APPLICABLE, ROOT, SURVIVED, main, mutated, read_mutants

SOURCE = "def double(x):\n    return 2 * x\n\n\ndef half(x):\n    return x / 2\n"
TESTS = """
from numbers_of_ours import double

def test_double():
    assert double(2) == 4

def test_wrong():
    assert double(2) == 5
"""
ENTRY = """
{name}:
  fault: {name} it is
  file: numbers_of_ours.py
  old: "{old}"
  new: "{new}"
  tests: test_ours.py::{test}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module, its tests and a list of mutants."""
    (tmp_path / "numbers_of_ours.py").write_text(SOURCE)
    (tmp_path / "test_ours.py").write_text(TESTS)
    entries = [
        ("tripled", "2 * x", "3 * x", "test_double"),
        ("no-half", "x / 2", "x", "test_double"),
        ("gone", "4 * x", "x", "test_double"),
        ("fails-anyway", "2 * x", "3 * x", "test_wrong"),
    ]
    text = "".join(ENTRY.format(name=n, old=o, new=w, test=t) for n, o, w, t in entries)
    (tmp_path / "list.yaml").write_text(text)
    monkeypatch.setattr(mutants, "LIST", tmp_path / "list.yaml")
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "IMPORTED", ())
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, prefix: Path, *names: str) -> tuple[dict[str, str], int]:
    """The outcomes by name, and the exit status."""
    monkeypatch.setattr(sys, "argv", ["mutants", *names, "--output", str(prefix)])
    with pytest.raises(SystemExit) as ended:
        main()
    record = json.loads(prefix.with_suffix(".json").read_text())
    found = {name: row["outcome"] for name, row in record["mutants"].items()}
    return found, int(ended.value.code or 0)


def test_what_becomes_of_mutants(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes, status = run(monkeypatch, project / "out")
    assert outcomes == {
        "tripled": CAUGHT,
        "no-half": SURVIVED,
        "gone": NOT_APPLICABLE,
        "fails-anyway": NOT_APPLICABLE,
    }
    assert status == 1
    assert (project / "numbers_of_ours.py").read_text() == SOURCE
    assert "`test_ours.py::test_double`" in (project / "out.md").read_text()


def test_named_mutants_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, project / "out", "tripled") == ({"tripled": CAUGHT}, 0)
    (project / "test_ours.py").unlink()  # what was caught is kept
    assert run(monkeypatch, project / "out", "tripled") == ({"tripled": CAUGHT}, 0)
    with pytest.raises(SystemExit, match="neverheard"):
        read_mutants(project / "list.yaml", ["neverheard"])


@pytest.mark.parametrize("name", read_mutants(mutants.LIST))
def test_every_mutant_of_the_list_applies(name: str) -> None:
    mutant = read_mutants(mutants.LIST, [name])[name]
    assert mutated((ROOT / mutant.file).read_text(encoding="utf-8"), mutant)
    for test in mutant.tests.split():
        file, *names = test.split("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert all(f"def {name.partition('[')[0]}(" in text for name in names[-1:])
