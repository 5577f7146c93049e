"""Write the generated part of the reference: JSON schemas, their page, and the page of the API.

    python -m tools.make_reference

A test compares the files with what this would write.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import skipopt
from skipopt.profile import Profile
from skipopt.reporting.documents import DOCUMENTS

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):\s*(.*)$")
JSON_HEAD = """# JSON documents

What commands print with `--json`, written by `python -m tools.make_reference`. The schemas are
JSON Schema (2020-12). A later version may add keys to a document; a profile has no others.
`search --json` and `show PROFILE --json` print a profile.

| document | schema |
|---|---|
"""
API_HEAD = """# API reference

Every name of `skipopt`, from its docstring, written by `python -m tools.make_reference`. For an
overview see [Python API](python.md).
"""


def main() -> None:
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


def pages() -> dict[Path, str]:
    """The text of every generated file."""
    found = {
        FOLDER / "schemas" / f"{name}.schema.json": f"{json.dumps(schema, indent=2)}\n"
        for name, schema in schemas().items()
    }
    return {**found, FOLDER / "json.md": json_page(), FOLDER / "api.md": api_page()}


# --- schemas


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema of each document and of the profile."""
    made = {name: each.model_json_schema() for name, each in DOCUMENTS.items()}
    made["profile"] = Profile.model_json_schema(by_alias=True)
    return {
        name: {"$schema": DIALECT, "title": f"skipopt {name}", **_without_titles(schema)}
        for name, schema in made.items()
    }


def _without_titles(value: Any) -> Any:
    """Without the titles that pydantic makes of names."""
    if isinstance(value, list):
        return [_without_titles(each) for each in value]
    if not isinstance(value, dict):
        return value
    is_named = isinstance(value.get("title"), str)
    return {
        key: _without_titles(each)
        for key, each in value.items()
        if not (key == "title" and is_named)
    }


def json_page() -> str:
    """Tables of the keys of each document."""
    parts = [JSON_HEAD]
    made = schemas()
    parts += [
        f"| `{name}` | [{name}.schema.json](schemas/{name}.schema.json) |\n" for name in made
    ]
    for name, schema in made.items():
        if name != "profile":
            parts.append(f"\n## {name}\n\n| key | type | meaning |\n|---|---|---|\n")
            parts += _rows(schema, schema["$defs"])
    parts.append("\n## Parts of documents\n")
    for title, part in _parts_of(made).items():
        parts.append(f"\n### {title}\n\n{part['description']}\n\n| key | type | meaning |\n")
        parts += ["|---|---|---|\n", *_rows(part, {})]
    return "".join(parts)


def _parts_of(made: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Named parts of all documents but the profile, which has a page of its own."""
    found: dict[str, Any] = {}
    for name, schema in made.items():
        found |= {} if name == "profile" else schema["$defs"]
    return {title.removesuffix("Document"): found[title] for title in sorted(found)}


def _rows(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required", ())
    for key, each in schema["properties"].items():
        words = _type_of(each) + ("" if key in required else ", may be missing")
        yield f"| `{key}` | {words} | {each.get('description', '')} |\n"


def _type_of(schema: Mapping[str, Any]) -> str:
    """`number or null`, `list of integer`, or the name of a part."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2].removesuffix("Document")
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_type_of, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type_of(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type_of(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


# --- API


def api_page() -> str:
    """A section for every public name, functions and classes by name."""
    return "\n".join(
        [API_HEAD, *(_section(name, getattr(skipopt, name)) for name in skipopt.__all__)]
    )


def _section(name: str, value: Any) -> str:
    parts = [f"## {name}\n", _signature(f"skipopt.{name}", value), _markdown(value)]
    if inspect.isclass(value) and not issubclass(value, Exception):
        for own, member in sorted(vars(value).items()):
            function = getattr(member, "__func__", member)
            if own.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
                continue
            parts += [f"### {name}.{own}\n", _signature(f"{name}.{own}", function)]
            parts.append(_markdown(function))
    return "\n".join(parts)


def _signature(name: str, value: Any) -> str:
    """A code block with the call, one parameter a line; none of a value read from a file."""
    if inspect.isclass(value) and issubclass(value, (BaseModel, Exception)):
        return ""
    found = inspect.signature(value)
    given = [each for each in found.parameters.values() if each.name not in ("self", "cls")]
    lines: list[str] = []
    keyword_only = False
    for each in given:
        if each.kind is each.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            lines.append("    *,")
        lines.append(f"    {_parameter(each)},")
    inside = "\n".join(["", *lines, ""]) if lines else ""
    returned = "" if inspect.isclass(value) else _returned(found.return_annotation)
    return f"```\n{name}({inside}){returned}\n```\n"


def _parameter(given: inspect.Parameter) -> str:
    stars = "*" if given.kind is given.VAR_POSITIONAL else ""
    stars = "**" if given.kind is given.VAR_KEYWORD else stars
    text = f"{stars}{given.name}"
    if given.annotation is not given.empty:
        text += f": {_annotation(given.annotation)}"
    if given.default is given.empty:
        return text
    shown = repr(given.default)
    return f"{text} = {'…' if ' at 0x' in shown or len(shown) > 60 else shown}"


def _returned(annotation: Any) -> str:
    if annotation is inspect.Signature.empty:
        return ""
    return f" -> {_annotation(annotation)}"


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _markdown(value: Any) -> str:
    """The docstring; its sections become lists."""
    lines: list[str] = []
    section = False
    for line in inspect.cleandoc(value.__doc__ or "").splitlines():
        if found := SECTION.match(line):
            section = True
            lines += [f"**{found.group(1)}:** {found.group(2)}".rstrip(), ""]
        elif section and line.startswith("    ") and not line.startswith("     "):
            lines.append(f"- {line.strip()}")
        elif section and line.strip():
            lines.append(f"  {line.strip()}")
        else:
            section = section and not line.strip()
            lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
