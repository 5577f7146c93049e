"""Read a file as text, and text as YAML or JSON, strictly."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from skipopt.errors import ProfileError

SEARCH_AGAIN = "search again: skipopt search"
WORD, NUMBER = "tag:yaml.org,2002:str", "tag:yaml.org,2002:int"


def read_text(name: str) -> str:
    """The text of a UTF-8 file, without its byte order mark.

    Raises:
        ProfileError: no such file, a folder, not UTF-8, or not readable.
    """
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ProfileError(
            f"there is no file {name!r}", hint="`skipopt search` makes a profile"
        ) from None
    except IsADirectoryError:
        raise ProfileError(
            f"{name!r} is a folder, expected a file", hint="name the file inside it"
        ) from None
    except UnicodeDecodeError:
        raise ProfileError(f"{name}: the file is not text (UTF-8)", hint=SEARCH_AGAIN) from None
    except OSError as error:
        raise ProfileError(
            f"cannot read {name!r}: {error.strerror}", hint="check the file's permissions"
        ) from None


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, a key that is not text, and a key without a value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        # A table has numbers as keys, all others have words. A mixture is a mistake.
        kinds = {key.tag for key, _ in node.value}
        allowed = NUMBER if kinds == {NUMBER} else WORD
        for key, value in node.value:
            if problem := _entry_problem(key, value, allowed, seen):
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _entry_problem(key: yaml.Node, value: yaml.Node, allowed: str, seen: set[str]) -> str | None:
    """What is wrong with one entry of a mapping; None if nothing is."""
    if not isinstance(key, yaml.ScalarNode):
        return "a key that is a list or a mapping"
    if key.tag != allowed:
        return f"the key {key.value!r} is not text"
    if key.value in seen:
        return f"the key {key.value!r} is there twice"
    # YAML reads nothing as null; a file cut off after a colon would then be valid.
    if isinstance(value, yaml.ScalarNode) and not value.value and value.style is None:
        return f"the key {key.value!r} has no value (write null for none)"
    return None


def parse_yaml(text: str, source: str) -> Any:
    """The values in YAML `text`; `source` names it in errors.

    Raises:
        ProfileError: not YAML, or not strict; names the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ProfileError(
            f"{source}: {line}{error.problem or error.context}", hint="correct that line"
        ) from None
    except yaml.reader.ReaderError as error:
        line_number = text.count("\n", 0, error.position) + 1
        raise ProfileError(
            f"{source}: line {line_number}: a character that YAML does not allow",
            hint="correct that line",
        ) from None
    except (RecursionError, ValueError) as error:
        # ValueError: a scalar that looks like a date or a number, and is not one.
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ProfileError(f"{source}: {problem}", hint=SEARCH_AGAIN) from None


def parse_json(text: str, source: str) -> Any:
    """The values in JSON `text`; `source` names it in errors.

    Raises:
        ProfileError: not JSON; names the line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ProfileError(
            f"{source}: line {error.lineno}: {error.msg}", hint="correct that line"
        ) from None
    except (RecursionError, ValueError) as error:
        # ValueError: an integer with more digits than Python reads.
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ProfileError(f"{source}: {problem}", hint="see FILE#name") from None
