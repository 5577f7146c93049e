"""docs/reference/methods.md names every method, option and verifier as they are in the code."""

from __future__ import annotations

import inspect
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from skipopt.draft_config import DraftConfig
from skipopt.drafting.registry import GIVEN, drafter_class, read_drafter_options
from skipopt.methods import DRAFT_OPTIONS, METHODS, MethodSpec, option_parameters, parse_method
from skipopt.verification.registry import VERIFIERS, split_options

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "methods.md").read_text(
    encoding="utf-8"
)
DRAFT_CONFIG_ANCHOR = "options-of-a-draft-config"
FACTS = ("source", "trained", "default verifier", "exact")


def sections() -> dict[str, str]:
    found = re.split(r"^## (.+)$", PAGE, flags=re.M)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


every_method = pytest.mark.parametrize("name", METHODS)


def rows(section: str) -> list[list[str]]:
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def facts(name: str) -> dict[str, str]:
    return {row[0]: row[1] for row in rows(sections()[name]) if len(row) == 2}


def options(name: str) -> dict[str, str]:
    table = [row for row in rows(sections()[name]) if len(row) == 3 and row[0] != "option"]
    return {row[0].strip("`"): row[1].strip("`") for row in table}


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """Of a method, without those of a draft config."""
    return option_parameters(drafter_class(MethodSpec(name)), GIVEN)


def check_options(spec: MethodSpec) -> dict[str, str]:
    """Read options as decoding does, and return those of the verifier."""
    for_verifier, own = split_options(spec.options)
    read_drafter_options(MethodSpec(spec.name, own))
    return for_verifier


def as_written(value: Any) -> str:
    """An option value as a user would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "-".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def methods_in(text: str) -> list[str]:
    """The methods listed after `--method` and `--methods`."""
    found: list[str] = []
    for line in re.findall(r"^\$ (skipopt .+)$", text, flags=re.M):
        words = shlex.split(line)
        for flag, value in pairwise(words):
            if flag in ("--method", "--methods"):
                found += value.split(",")
    return found


def test_every_method_has_a_section_in_the_order_of_the_table() -> None:
    assert [name for name in sections() if name in METHODS] == list(METHODS)


@every_method
def test_methods_that_use_a_draft_config_take_one(name: str) -> None:
    made = inspect.signature(drafter_class(MethodSpec(name))).parameters
    assert METHODS[name].takes_draft_config == ("draft_config" in made)
    assert METHODS[name].takes_draft_config == (f"(#{DRAFT_CONFIG_ANCHOR})" in sections()[name])


def test_options_of_a_draft_config_are_there_with_their_defaults() -> None:
    given = option_parameters(DraftConfig.of, ("vocabulary",))
    listed = options("Options of a draft config")
    assert listed == {key: as_written(value.default) for key, value in given.items()}
    assert set(listed) == set(DRAFT_OPTIONS)


@every_method
def test_every_option_is_there_with_its_default(name: str) -> None:
    assert options(name) == {
        key: as_written(value.default) for key, value in parameters(name).items()
    }


@every_method
def test_every_fact_is_listed(name: str) -> None:
    listed = facts(name)
    assert set(FACTS) <= set(listed)
    best = drafter_class(MethodSpec(name)).best_verifier
    assert listed["default verifier"].startswith(f"`{best}`: "), "and why"


@every_method
def test_sources_are_those_of_the_table(name: str) -> None:
    for identifier in METHODS[name].source.split(", "):
        assert identifier in facts(name)["source"]


@every_method
def test_the_section_ends_with_a_command_for_the_method(name: str) -> None:
    section = sections()[name]
    [written] = methods_in(section)
    spec = parse_method(written)
    assert spec.name == name
    check_options(spec)
    assert not spec.needs_mask or " -p " in section


def test_every_verifier_is_there_with_its_settings() -> None:
    section = sections()["How drafts are verified"]
    for name, made in VERIFIERS.items():
        assert f"| `{name}` |" in section
        for key, value in inspect.signature(made).parameters.items():
            if key not in ("name", "coupled"):
                assert f"`{key}` = `{value.default}`" in section


def test_relaxed_verifiers_are_called_not_exact() -> None:
    table = rows(sections()["How drafts are verified"])
    listed = {row[0].strip("`"): row[2] for row in table if row[0].strip("`") in VERIFIERS}
    assert {name for name, text in listed.items() if "**not exact**" in text} == {
        name for name in VERIFIERS if name.startswith("relaxed")
    }


def test_methods_of_all_commands_can_be_read() -> None:
    written = methods_in(PAGE)
    assert len(written) > len(METHODS)
    for each in written:
        spec = parse_method(each)
        assert check_options(spec).get("verify", "match") in VERIFIERS
