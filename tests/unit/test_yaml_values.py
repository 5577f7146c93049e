"""YAML means what version 1.2 says, and what only looks like a number is text."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
import yaml

from skipopt.profile.yaml_style import Dumper
from skipopt.yaml_values import YamlError, parse_elements, parse_texts, parse_yaml

WORDS = (
    "no", "on", "Yes", "off", "012", "-07", "0x1f", "0o17", "0b1", "12:30", "1:30", "1_000",
    "2024-01-31", "2024-01-31 12:30:00", "=", "<<", "1.2.3", "e5", ".", "+", "1e",
)  # fmt: skip
VALUES: dict[str, Any] = {
    "null": None, "~": None, "true": True, "False": False, "0": 0, "-3": -3, "+12": 12,
    "1.5": 1.5, ".5": 0.5, "1e3": 1000.0, "-1.0e-05": -1e-5, ".inf": inf,
}  # fmt: skip


@pytest.mark.parametrize("text", WORDS)
def test_other_text_stays_text(text: str) -> None:
    assert parse_yaml(f"a: [{text}]") == {"a": [text]}
    assert parse_yaml(f"{{a: {text}}}") == {"a": text}


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_values(text: str, value: object) -> None:
    found = parse_yaml(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)
    assert parse_yaml(f"a: '{text}'") == {"a": text}
    assert parse_texts(f"a: {text}") == {"a": None if value is None else text}


@pytest.mark.parametrize("text", [*WORDS, *VALUES, "12e4567", "1e5", "", "a: b", "- a", "#", "é"])
def test_text_that_is_written_comes_back(text: str) -> None:
    written = yaml.dump({"model": {"id": text}}, Dumper=Dumper, allow_unicode=True)
    assert parse_yaml(written) == {"model": {"id": text}}


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: 2\na: 3", 3, "'a' is there twice"),
        ("a: {b: 1, b: 2}", 1, "'b' is there twice"),
        ("a:", 1, "no value"),
        ("a: 1\nb: '", 2, "unexpected end of stream"),
        ("a: " + "[" * 5000, None, "nested too deeply"),
        ("a: " + "9" * 5000, None, "digits"),
        ("a: \x00", 1, "does not allow"),
    ],
)
def test_mistakes_are_named_with_their_line(text: str, line: int | None, problem: str) -> None:
    with pytest.raises(YamlError, match=problem) as caught:
        parse_yaml(text)
    assert caught.value.line == line


def test_the_elements_of_a_list_have_their_lines() -> None:
    assert parse_elements("# prompts\n- one\n- prompt: |\n    two\n\n    three\n- 'no'\n") == [
        (2, "one"),
        (3, {"prompt": "two\n\nthree\n"}),
        (7, "no"),
    ]
    with pytest.raises(YamlError, match="expected a list"):
        parse_elements("a: 1")
