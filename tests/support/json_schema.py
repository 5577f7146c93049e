"""Validates values against JSON Schema, with the keywords that the project's schemas use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "number": (int, float),
    "integer": (int,),
    "null": (type(None),),
}
IGNORED = {"title", "description", "default", "$defs", "$schema"}


def errors(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None,
           path: str = "$") -> list[str]:  # fmt: skip
    """What of the value does not fit, each with its path; empty where all of it does.

    Raises:
        NotImplementedError: the schema has a keyword that is not known here.
    """
    root = schema if root is None else root
    found: list[str] = []
    for keyword, rule in schema.items():
        if keyword not in IGNORED:
            found += _check(keyword, rule, value, schema, root, path)
    return found


def _check(
    keyword: str,
    rule: Any,
    value: Any,
    schema: Mapping[str, Any],
    root: Mapping[str, Any],
    path: str,
) -> list[str]:
    if keyword == "$ref":
        return errors(value, root["$defs"][rule.rpartition("/")[2]], root, path)
    if keyword == "anyOf":
        tried = [errors(value, each, root, path) for each in rule]
        return [] if not all(tried) else [f"{path} fits none of {len(rule)}: {tried}"]
    if keyword == "type":
        return [] if _is_type(value, rule) else [f"{path} is {value!r}, expected {rule}"]
    if keyword in ("enum", "const"):
        allowed = rule if keyword == "enum" else [rule]
        return [] if value in allowed else [f"{path} is {value!r}, expected one of {allowed}"]
    if keyword in ("properties", "required", "additionalProperties", "propertyNames"):
        return _check_object(keyword, rule, value, schema, root, path)
    if keyword in ("items", "minItems"):
        return _check_list(keyword, rule, value, root, path)
    return _check_plain(keyword, rule, value, path)


def _is_type(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, TYPES[name])


def _check_object(
    keyword: str,
    rule: Any,
    value: Any,
    schema: Mapping[str, Any],
    root: Mapping[str, Any],
    path: str,
) -> list[str]:
    if not isinstance(value, dict):
        return []
    if keyword == "required":
        return [f"{path} lacks {key}" for key in rule if key not in value]
    found: list[str] = []
    if keyword == "properties":
        for key in rule.keys() & value.keys():
            found += errors(value[key], rule[key], root, f"{path}.{key}")
    elif keyword == "propertyNames":
        for key in value:
            found += errors(key, rule, root, f"{path} key {key}")
    else:
        for key in value.keys() - schema.get("properties", {}).keys():
            if rule is False:
                found.append(f"{path} has an unknown key {key}")
            elif isinstance(rule, dict):
                found += errors(value[key], rule, root, f"{path}.{key}")
    return found


def _check_list(
    keyword: str, rule: Any, value: Any, root: Mapping[str, Any], path: str
) -> list[str]:
    if not isinstance(value, list):
        return []
    if keyword == "minItems":
        return [] if len(value) >= rule else [f"{path} has {len(value)} items, expected {rule}"]
    return [
        error
        for index, each in enumerate(value)
        for error in errors(each, rule, root, f"{path}[{index}]")
    ]


def _check_plain(keyword: str, rule: Any, value: Any, path: str) -> list[str]:
    if isinstance(value, str):
        holds = {
            "pattern": lambda: re.search(rule, value) is not None,
            "minLength": lambda: len(value) >= rule,
        }
    elif isinstance(value, int | float):
        holds = {
            "minimum": lambda: value >= rule,
            "maximum": lambda: value <= rule,
            "exclusiveMinimum": lambda: value > rule,
        }
    else:
        return []
    others = {"pattern", "minLength", "minimum", "maximum", "exclusiveMinimum"}
    if keyword not in holds:
        if keyword not in others:
            raise NotImplementedError(keyword)
        return []
    return [] if holds[keyword]() else [f"{path} is {value!r}, expected {keyword} {rule}"]
