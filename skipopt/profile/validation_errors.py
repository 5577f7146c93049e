"""Pydantic's validation errors as one line that names the key, its value and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from reprlib import Repr
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from skipopt.errors import ProfileError
from skipopt.profile.parsing import SEARCH_AGAIN

SCHEMA = 1
UNKNOWN_KEY = ("extra_forbidden", "invalid_key")
INPUT = "Input should be "  # how most of pydantic's messages begin

Section = TypeVar("Section", bound=BaseModel)


def check_schema(data: Mapping[Any, Any], source: str) -> None:
    """Check the schema version before anything else: under another one every message misleads.

    Raises:
        ProfileError: `schema` is missing or is not `SCHEMA`.
    """
    version = data.get("schema")
    if type(version) is int and version > SCHEMA:
        raise ProfileError(
            f"{source}: schema is {version}, but this skipopt reads schema {SCHEMA} only",
            hint="upgrade skipopt, or search again with this one",
        )
    if type(version) is not int or version != SCHEMA:
        what = f"schema is {show(version)}" if "schema" in data else "schema is missing"
        raise ProfileError(f"{source}: {what}, expected {SCHEMA}", hint=SEARCH_AGAIN)


def validate(kind: type[Section], data: Any, source: str) -> Section:
    """`data` as a `kind`; `source` names the file in errors.

    Raises:
        ProfileError: the first of pydantic's errors in one line, with the number of the others.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as failure:
        errors = failure.errors(include_url=False)
    # A misspelled key is reported as unknown and as missing; the first explains both.
    first = next((e for e in errors if e["type"] in UNKNOWN_KEY), errors[0])
    message, hint = _explain(first, kind)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    raise ProfileError(f"{source}: {message}{more}", hint=hint)


def _explain(error: ErrorDetails, kind: type[BaseModel]) -> tuple[str, str]:
    """(message, hint) for one error."""
    context = error.get("ctx", {})
    key = context.get("key") or _dotted(error["loc"]) or "the whole"
    value = context.get("value", error["input"])
    if error["type"] == "missing":
        return f"{key} is missing", f"the file may be cut short; {SEARCH_AGAIN}"
    if error["type"] == "invalid_key":
        return f"there is no key {key}", _suggest(error["loc"], kind)
    if error["type"] == "extra_forbidden":
        return f"{key} is {show(value)}, but there is no such key", _suggest(error["loc"], kind)
    return f"{key} is {show(value)}{_expected(error)}", _hint(error["type"], value)


def _dotted(location: Sequence[int | str]) -> str:
    """`("mask", "attention", 0)` as `mask.attention[0]`."""
    named = (part for part in location if part != "[key]")  # pydantic: the key itself is wrong
    parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in named)
    return "".join(parts).lstrip(".")


def _expected(error: ErrorDetails) -> str:
    if error["type"] in ("model_type", "dict_type"):  # pydantic names the class here
        return ", expected a mapping of keys to values"
    message = error["msg"]
    if message.startswith(INPUT):
        return f", expected {message.removeprefix(INPUT)}"
    return f", {message}" if error["type"] == "profile" else f": {message}"


def _hint(kind: str, value: object) -> str:
    if kind == "string_type":
        return "put it in quotes"
    if isinstance(value, str) and kind in ("int_type", "float_type"):
        return "write it without quotes, like 12, 0.5 or 1e-3"
    return f"correct it by hand, or {SEARCH_AGAIN}"


def _suggest(location: Sequence[int | str], kind: type[BaseModel]) -> str:
    """The key that was probably meant, or all keys of that section."""
    names = _keys_at(location[:-1], kind)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"the keys here are {', '.join(names)}"


def _keys_at(location: Sequence[int | str], kind: type[BaseModel]) -> list[str]:
    for part in location:
        # An index of a list and a key of a table are no fields.
        if field := kind.model_fields.get(str(part)):
            kind = next(_models_in(field.annotation))
    return [field.alias or name for name, field in kind.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models inside an annotation such as `Section | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def show(value: object) -> str:
    """A value as YAML writes it, on one line and cut to about 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    brief = Repr()
    brief.maxstring = brief.maxother = 60
    return " ".join(brief.repr(value).split())
