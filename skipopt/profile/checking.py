"""Values held against a schema; what is wrong told in one line that names key and value.

Knows nothing of what the schema is about.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from reprlib import Repr
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from skipopt.errors import ProfileError
from skipopt.profile.reading import SEARCH_AGAIN

SCHEMA = 1
UNKNOWN = ("extra_forbidden", "invalid_key")  # no such word; a number where a word belongs


def check_schema(data: Mapping[Any, Any], source: str) -> None:
    """First of all, since a newer schema makes every other complaint misleading."""
    version = data.get("schema")
    if type(version) is int and version > SCHEMA:
        raise ProfileError(
            f"{source}: schema is {version}, but this skipopt reads schema {SCHEMA} only",
            hint="upgrade skipopt, or search again with this one",
        )
    if type(version) is not int or version != SCHEMA:
        what = f"schema is {show(version)}" if "schema" in data else "schema is missing"
        raise ProfileError(f"{source}: {what}, expected {SCHEMA}", hint=SEARCH_AGAIN)


Checked = TypeVar("Checked", bound=BaseModel)


def validate(kind: type[Checked], data: Any, source: str) -> Checked:
    try:
        return kind.model_validate(data)
    except ValidationError as failure:
        errors = failure.errors(include_url=False)
    # A misspelt key shows up twice, as unknown and as missing; the unknown one explains both.
    first = next((e for e in errors if e["type"] in UNKNOWN), errors[0])
    message, hint = _explain(first, kind)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    raise ProfileError(f"{source}: {message}{more}", hint=hint)


def _explain(error: ErrorDetails, kind: type[BaseModel]) -> tuple[str, str]:
    """(message, hint) of one of pydantic's complaints."""
    context = error.get("ctx", {})
    key = context.get("key") or _dotted(error["loc"]) or "the whole"
    value = context.get("value", error["input"])
    if error["type"] == "missing":
        return f"{key} is missing", f"the file may be cut short; {SEARCH_AGAIN}"
    if error["type"] == "invalid_key":
        return f"there is no key {key}", _suggest(error["loc"], kind)
    if error["type"] == "extra_forbidden":
        return f"{key} is {show(value)}, but there is no such key", _suggest(error["loc"], kind)
    expected = _expected(error["type"], context)
    return f"{key} is {show(value)}, expected {expected}", _remedy(expected, value)


def _dotted(location: Sequence[int | str]) -> str:
    """`mask.attention[0]`."""
    named = (part for part in location if part != "[key]")  # pydantic's word: the key is wrong
    parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in named)
    return "".join(parts).lstrip(".")


def _expected(kind: str, context: Mapping[str, Any]) -> str:
    if kind == "literal_error":
        return "one of " + str(context["expected"]).replace("'", "").replace(" or ", ", ")
    words = {
        "profile": "{expected}",
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "string_type": "text",
        "string_too_short": "text that is not empty",
        "string_pattern_mismatch": "'sha256:' and hexadecimal digits",
        "bool_type": "true or false",
        "tuple_type": "a list of layer numbers",
        "model_type": "a mapping of keys to values",
        "dict_type": "a mapping of keys to values",
        "greater_than": "a number above {gt}",
        "greater_than_equal": "a number of at least {ge}",
        "less_than_equal": "a number of at most {le}",
    }
    return words.get(kind, f"something else ({kind})").format_map(context)


def _remedy(expected: str, value: object) -> str:
    if expected == "text":
        return "put it in quotes"
    if isinstance(value, str) and expected.endswith("number"):
        return "write it without quotes, as 12 or 0.5 (YAML takes 1e-3 for text)"
    return f"correct it by hand, or {SEARCH_AGAIN}"


def _suggest(location: Sequence[int | str], kind: type[BaseModel]) -> str:
    """The key that was meant, or all there are."""
    names = _keys_at(location[:-1], kind)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"the keys here are {', '.join(names)}"


def _keys_at(location: Sequence[int | str], kind: type[BaseModel]) -> list[str]:
    for part in location:
        # The number of an item and the name of an entry are no field, and lead no deeper.
        if field := kind.model_fields.get(str(part)):
            kind = next(_models_in(field.annotation))
    return [field.alias or name for name, field in kind.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Of `Part | None`, `tuple[Part, ...]` and the like, the parts."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def show(value: object) -> str:
    """A value as YAML would have it, on one line and not long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    brief = Repr()
    brief.maxstring = brief.maxother = 60
    return " ".join(brief.repr(value).split())
