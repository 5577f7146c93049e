"""Numbers in options: of numpy or Python, checked and kept as Python's own."""

from __future__ import annotations

import operator
from dataclasses import fields
from numbers import Real
from typing import TYPE_CHECKING

from skipopt.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def whole_number(name: str, value: object) -> int:
    """An integer of any library as an int.

    Raises:
        UsageError: not an integer; names the option.
    """
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        try:
            return operator.index(value)
        except TypeError:  # a tensor of several numbers, or of fractions
            pass
    raise UsageError(f"{option_name(name)} must be a whole number, not {value!r}")


def real_number(name: str, value: object) -> float:
    """A number of any library as a float.

    Raises:
        UsageError: not a number; names the option.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    raise UsageError(f"{option_name(name)} must be a number, not {value!r}")


def option_name(field: str) -> str:
    """A field as it is written on the command line, without the leading dashes."""
    return field.replace("_", "-")


def brief(options: DataclassInstance) -> str:
    """A short `repr`: only what is not as by default."""
    values = [(each, getattr(options, each.name)) for each in fields(options)]
    shown = [f"{each.name}={value!r}" for each, value in values if value != each.default]
    return f"{type(options).__name__}({', '.join(shown)})"


def convert_numbers(options: DataclassInstance) -> None:
    """Replace the numbers of new, frozen options by Python's own; call it in `__post_init__`.

    Fields are known by their annotation: `int`, `float` or `tuple[int, ...]`, or None.

    Raises:
        UsageError: a value of another type; names the option.
    """
    for field in fields(options):
        kind = str(field.type).removesuffix(" | None")
        value = getattr(options, field.name)
        if value is None and kind != field.type:
            continue
        read: object = value
        if kind == "int":
            read = whole_number(field.name, value)
        elif kind == "float":
            read = real_number(field.name, value)
        elif kind == "tuple[int, ...]":
            read = tuple(whole_number(field.name, each) for each in value)
        object.__setattr__(options, field.name, read)
