"""Commands that receive typed values instead of one argument per option.

A command declares a parameter of a dataclass in `option_groups.GROUPS`; `command` turns it into
the options of that group, with the defaults of the dataclass:

    @command
    def run(*, model: Model = None, decoding: DecodingOptions, output: Output) -> int: ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import typer

from skipopt.cli.option_groups import GROUPS
from skipopt.cli.options import ModelFlag
from skipopt.errors import SkipoptError, UsageError


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
        if each.name == "model":
            parameters += [flag for flag in _MODEL_FLAG if flag.name not in declared.parameters]

    @wraps(function)
    def run_command(**values: Any) -> int:
        take_model_flag(values)
        made = {name: _make(group, values) for name, group in groups.items()}
        check_files(values)
        given = {name: value for name, value in values.items() if name in declared.parameters}
        try:
            return function(**{**given, **made})
        except BrokenPipeError:  # not of stdout, see `streams.writing`
            raise SkipoptError("a connection was closed", hint="run the command again") from None

    run_command.__signature__ = declared.replace(parameters=parameters)  # type: ignore[attr-defined]
    run_command.__annotations__ = {each.name: each.annotation for each in parameters}
    return run_command


_MODEL_FLAG = (
    Parameter("model_flag", Parameter.KEYWORD_ONLY, annotation=ModelFlag, default=None),
    Parameter("ctx", Parameter.KEYWORD_ONLY, annotation=typer.Context),
)


def take_model_flag(values: dict[str, Any]) -> None:
    """Take --model, another way to give MODEL, out of the options.

    Raises:
        UsageError: both are given.
    """
    flag, context = values.pop("model_flag", None), values.get("ctx")
    if flag is None:
        return
    source = context.get_parameter_source("model") if context else None
    if source is not None and source.name == "COMMANDLINE":
        raise UsageError(
            f"the model is given twice: {values['model']} and {flag}", hint="leave out --model"
        )
    values["model"] = flag


# Options that name a file to read or to write.
INPUTS = (
    "config", "model", "file", "profile", "prompts", "prompt_file", "messages", "baseline",
    "against", "storage",
)  # fmt: skip
OUTPUTS = (
    "output", "junit", "markdown", "history", "github_benchmark", "bencher", "save_profile",
    "memory",
)  # fmt: skip


def check_files(values: Mapping[str, Any]) -> None:
    """Check that a command writes no file that it reads, and none twice.

    A tuned profile may replace the one that it began with.

    Args:
        values: of all options of the command.

    Raises:
        UsageError: it does.
    """
    from skipopt.files import check_apart

    taken = {flag(name): Path(str(values[name])) for name in INPUTS if values.get(name)}
    if "MODEL" in taken and taken["MODEL"].is_dir():
        del taken["MODEL"]  # a profile may be written beside the weights
    if "#" in (spec := values.get("profile") or "") and not Path(spec).exists():
        taken["--profile"] = Path(spec.rpartition("#")[0])  # FILE#name
    for name in OUTPUTS:
        if (path := values.get(name)) is None:
            continue
        kept = "--profile" if name == "save_profile" else None
        check_apart(path, {k: other for k, other in taken.items() if k != kept}, flag(name))
        taken[flag(name)] = path


def flag(name: str) -> str:
    """What a message calls a parameter: `--save-profile`, or `MODEL` and `FILE`."""
    return name.upper() if name in ("model", "file") else f"--{name.replace('_', '-')}"


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
