"""Commands that receive typed values instead of one argument per option.

A command declares a parameter of a dataclass in `options.GROUPS`; `command` turns it into the
options of that group, with the defaults of the dataclass:

    @command
    def run(*, model: Model = None, decoding: DecodingOptions, output: Output) -> int: ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from inspect import Parameter, signature
from typing import Any

from skipopt.cli.options import GROUPS


def command(function: Callable[..., int]) -> Callable[..., int]:
    """Turn each parameter whose type is in `GROUPS` into the options of that group.

    The dataclasses are made before the command is called, so their checks come first.
    """
    declared = signature(function, eval_str=True)
    parameters: list[Parameter] = []
    groups: dict[str, type[Any]] = {}
    for each in declared.parameters.values():
        if each.annotation in GROUPS:
            groups[each.name] = each.annotation
            parameters += _group_parameters(each.annotation)
        else:
            parameters.append(each)

    @wraps(function)
    def run_command(**values: Any) -> int:
        made = {name: _make(group, values) for name, group in groups.items()}
        given = {name: value for name, value in values.items() if name in declared.parameters}
        return function(**{**given, **made})

    run_command.__signature__ = declared.replace(parameters=parameters)  # type: ignore[attr-defined]
    run_command.__annotations__ = {each.name: each.annotation for each in parameters}
    return run_command


def _group_parameters(group: type[Any]) -> list[Parameter]:
    defaults = {field.name: field.default for field in fields(group)}
    return [
        Parameter(
            name, Parameter.KEYWORD_ONLY, annotation=annotation, default=_shown(defaults.get(name))
        )
        for name, annotation in GROUPS[group].items()
    ]


def _shown(default: Any) -> Any:
    """A tuple as it is written on the command line."""
    return ",".join(default) or None if isinstance(default, tuple) else default


def _make(group: type[Any], values: dict[str, Any]) -> Any:
    names = {field.name for field in fields(group)} & GROUPS[group].keys()
    return group(**{name: values[name] for name in names if values[name] is not None})
