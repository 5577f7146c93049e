"""The example of docs/how-to/adding-a-drafter.md passes the contract suite of drafters."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from support import drafter_contract

from skipopt.drafting.registry import drafter_class, make_drafter
from skipopt.errors import UsageError
from skipopt.methods import METHODS, Method, parse_method
from skipopt.models.target import Target
from skipopt.rounds import Statistics
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import Case, Check

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "adding-a-drafter.md").read_text(
    encoding="utf-8"
)
MODULE, LINE, SETTINGS = re.findall(r"^```python\n(.+?)^```$", PAGE, flags=re.M | re.S)
[(NAME, TEXTS)] = eval(f"{{{SETTINGS}}}").items()


@pytest.fixture(scope="module")
def target() -> Target:
    return drafter_contract.small_target()


@pytest.fixture(autouse=True)
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example registered as the page says: one file and one line in the table."""
    [(name, method)] = eval(f"{{{LINE}}}", {"Method": Method}).items()
    assert name == NAME
    module = method.drafter.partition(":")[0]
    assert f"`skipopt/drafting/{module}.py`" in PAGE
    path = tmp_path / f"{module}.py"
    path.write_text(MODULE, encoding="utf-8")
    monkeypatch.setitem(sys.modules, f"skipopt.drafting.{module}", loaded(path))
    monkeypatch.setitem(METHODS, name, method)  # type: ignore[misc]


def loaded(path: Path) -> Any:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("method", TEXTS)
def test_the_example_keeps_the_contract(target: Target, check: Check, method: str) -> None:
    check(Case(target, method))


def test_the_example_drafts_and_some_tokens_are_accepted(target: Target) -> None:
    prompt = [1, 2, 3, 4] * 5
    rounds = contract.run(Case(target, NAME), prompt, contract.End(60))
    statistics = Statistics.of(rounds)
    assert 0 < statistics.accepted < statistics.drafted
    assert {word for each in rounds for word in each.sources} == {"copied"}


def test_the_example_takes_its_options_and_no_others(target: Target) -> None:
    assert make_drafter(target, parse_method(f"{NAME}:gamma=9")).max_extra_rows == 9
    with pytest.raises(UsageError, match="1 or more"):
        make_drafter(target, parse_method(f"{NAME}:gamma=0"))
    with pytest.raises(UsageError, match="no option 'delta'"):
        make_drafter(target, parse_method(f"{NAME}:delta=1"))


def test_the_example_is_short_and_documented() -> None:
    assert len(MODULE.splitlines()) < 45
    made = drafter_class(parse_method(NAME))
    assert made.__doc__
