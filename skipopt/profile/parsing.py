"""Read a file as text, and text as YAML or JSON, strictly."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from skipopt import yaml_values
from skipopt.errors import ProfileError

BUILTIN = "builtin"  # names the profile of the built-in model
SEARCH_AGAIN = "search again: skipopt search"


def builtin_path() -> str:
    """The file of the built-in model's profile inside the installed package."""
    return str(files("skipopt") / "data" / "builtin-profile.yaml")


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


def parse_yaml(text: str, source: str) -> Any:
    """The values in YAML `text`; `source` names it in errors.

    Raises:
        ProfileError: not YAML, or not strict; names the line.
    """
    try:
        return yaml_values.parse_yaml(text)
    except yaml_values.YamlError as error:
        line = f"line {error.line}: " if error.line else ""
        hint = "correct that line" if error.line else SEARCH_AGAIN
        raise ProfileError(f"{source}: {line}{error}", hint=hint) from None


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
