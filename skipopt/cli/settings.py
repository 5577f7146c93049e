"""Reads option values from a config file.

Precedence: flag, `SKIPOPT_*` variable, `--config` file, default. Typer reads flags and variables;
the values of the file replace the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from skipopt.cli.help import PanelCommand
from skipopt.errors import UsageError

# Context settings: Typer reads SKIPOPT_<FLAG> for each option.
FROM_ENVIRONMENT = {"auto_envvar_prefix": "SKIPOPT"}


class WholeVariables(PanelCommand):
    """A command for whose repeated options a variable holds one text, white space included.

    Typer would split it: `SKIPOPT_STOP` may be a blank line.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for parameter in self.params:
            setattr(parameter, "envvar_list_splitter", "\0")  # noqa: B010 - a class variable


def apply_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Callback of --config: the values of the file become defaults of the command."""
    if path is not None:
        ctx.default_map = read_config(path, known_options(ctx))
    return path


def known_options(ctx: typer.Context) -> dict[str, Any]:
    """The parameters of all commands by name; one file may hold options of several commands."""
    commands = getattr(ctx.find_root().command, "commands", {})
    found = {p.name: p for command in commands.values() for p in command.params}
    found.update({p.name: p for p in ctx.command.params})
    return {name: p for name, p in found.items() if name not in ("config", "help", "model_flag")}


def read_config(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config file by parameter name, each the text that a flag would be given.

    Keys may be written with `-` or `_`.

    Args:
        known: parameters by name; those with `multiple=True` take a list.

    Raises:
        UsageError: the file cannot be read or is not a YAML mapping, or a key or value is invalid.
    """
    values = {}
    for key, value in _read_mapping(path).items():
        name = key.replace("-", "_")
        if name not in known:
            raise UsageError(f"{path}: unknown option {key!r}", hint=_suggest(name, known))
        if isinstance(value, dict):
            raise UsageError(f"{path}: {key} is a mapping, expected a value")
        repeated = getattr(known[name], "multiple", False)
        if isinstance(value, list) != repeated and value is not None:
            value = _as_list(path, key, value, repeated)
        if value is not None:
            values[name] = value
    return values


def _as_list(path: Path, key: str, value: Any, repeated: bool) -> list[Any]:
    """A single value as a list, for an option that may be repeated."""
    if not repeated:
        raise UsageError(f"{path}: {key} is a list, expected one value")
    return [value]


def _read_mapping(path: Path) -> Mapping[str, Any]:
    """The entries of the file, their values as they are written."""
    from skipopt.yaml_values import YamlError, parse_texts

    try:
        data = parse_texts(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"cannot read the config file {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        line = f", line {error.line}" if isinstance(error, YamlError) and error.line else ""
        problem = "not text" if isinstance(error, UnicodeError) else str(error)
        raise UsageError(f"{path}{line}: not YAML: {problem}", hint="correct the file") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected a mapping of options to values", hint="device: cpu")
    return data


def _suggest(name: str, known: Mapping[str, Any]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0].replace('_', '-')!r}?"
    return "keys are options without the leading dashes: max-new-tokens"
