"""docs/reference/output.md explains every figure, phase and line."""

from __future__ import annotations

import re
from pathlib import Path

from skipopt.reporting.report import PICTURES
from skipopt.study.time_plan import NAMES, PHASES

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "output.md").read_text(encoding="utf-8")


def test_the_page_explains_every_figure() -> None:
    table = PAGE.partition("| `--plot` |")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == set(PICTURES)


def test_the_page_explains_every_phase() -> None:
    found = re.findall(r"^\| `(\d)/4 (\w+)` \|", PAGE, re.M)
    assert found == [(str(n), NAMES[phase]) for n, phase in enumerate(PHASES, 1)]
