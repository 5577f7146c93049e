"""YAML as version 1.2 reads it, strictly: what only looks like a number stays text.

PyYAML follows version 1.1, in which `no` is false, `010` is 8, `1:30` is 90 and `1_000` is 1000.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

WORD, NUMBER = "tag:yaml.org,2002:str", "tag:yaml.org,2002:int"
# What plain text is besides text. A number with a leading zero, which is octal in version 1.1 and
# decimal in 1.2, is text.
VALUES = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    "float": re.compile(
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}


def parse_yaml(text: str) -> Any:
    """The values in YAML.

    Raises:
        YamlError: not YAML, a key given twice, a key that is not text, a key without a value.
    """
    return _parse(text, _Loader)


def parse_texts(text: str) -> Any:
    """The values in YAML, where each is the text that was written; null or nothing is None.

    Raises:
        YamlError: as `parse_yaml`, except for a key without a value.
    """
    return _parse(text, _TextLoader)


def parse_elements(text: str) -> list[tuple[int, Any]]:
    """The elements of the list that YAML holds, each with the number of its line.

    Raises:
        YamlError: as `parse_yaml`, or the text holds no list.
    """
    values = parse_yaml(text)
    if not isinstance(values, list):
        raise YamlError("expected a list")
    node = yaml.compose(text, Loader=_Loader)
    assert node is not None, "there is a list"
    lines = [element.start_mark.line + 1 for element in node.value]
    return list(zip(lines, values, strict=True))


class YamlError(ValueError):
    """Text that is not YAML.

    Attributes:
        line: number of the line with the mistake; None if unknown.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def _parse(text: str, loader: type[_Loader]) -> Any:
    try:
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "not YAML"
        raise YamlError(problem, mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError("a character that YAML does not allow", line) from None
    except (RecursionError, ValueError) as error:
        # ValueError: an integer with more digits than Python reads.
        nested = isinstance(error, RecursionError)
        raise YamlError("nested too deeply" if nested else str(error)) from None


class _Loader(yaml.SafeLoader):
    """YAML 1.2 that refuses a key given twice, a key that is not text, and one without a value.

    Attributes:
        needs_values: YAML reads nothing as null; a file cut off after a colon would be valid.
    """

    needs_values = True

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        # A table has numbers as keys, all others have words. A mixture is a mistake.
        kinds = {key.tag for key, _ in node.value}
        allowed = NUMBER if kinds == {NUMBER} else WORD
        for key, value in node.value:
            problem = _entry_problem(key, allowed, seen)
            if self.needs_values and _is_nothing(value):
                problem = problem or f"the key {key.value!r} has no value (write null for none)"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _TextLoader(_Loader):
    """The same, in which each value is text or null."""

    needs_values = False


def _resolvers(*kinds: str) -> dict[str | None, list[tuple[str, re.Pattern[str]]]]:
    """What a loader or dumper takes plain text for; None: whatever it begins with."""
    patterns = {kind: re.compile(rf"(?:{VALUES[kind].pattern})\Z") for kind in kinds}
    return {None: [(f"tag:yaml.org,2002:{kind}", each) for kind, each in patterns.items()]}


_Loader.yaml_implicit_resolvers = _resolvers(*VALUES)
_TextLoader.yaml_implicit_resolvers = _resolvers("null")


def _entry_problem(key: yaml.Node, allowed: str, seen: set[str]) -> str | None:
    """What is wrong with the key of an entry; None if nothing is."""
    if not isinstance(key, yaml.ScalarNode):
        return "a key that is a list or a mapping"
    if key.tag != allowed:
        return f"the key {key.value!r} is not text"
    if key.value in seen:
        return f"the key {key.value!r} is there twice"
    return None


def _is_nothing(value: yaml.Node) -> bool:
    return isinstance(value, yaml.ScalarNode) and not value.value and value.style is None
