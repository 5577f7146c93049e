"""Constraints of the lowest releases."""

from __future__ import annotations

import tomllib

import pytest

from tools.floors import PROJECT, floors


def test_a_floor_is_the_lowest_release_of_its_series() -> None:
    given = ["numpy>=2.0", "rich>=14", "pyyaml>=6.0.2", "transformers[serving]>=5.23"]
    assert list(floors(given)) == [
        "numpy==2.0.*", "rich==14.0.*", "pyyaml==6.0.2", "transformers==5.23.*",
    ]  # fmt: skip


def test_every_dependency_has_a_floor() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    assert len(list(floors(project["dependencies"]))) == len(project["dependencies"])
    with pytest.raises(ValueError, match="no lowest"):
        list(floors(["numpy"]))
