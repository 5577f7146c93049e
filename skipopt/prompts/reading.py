"""Reads the prompts of a file or folder, and says in one line what was recognized."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from skipopt.errors import PromptError
from skipopt.prompts.prompt import Prompt, distinct_prompts
from skipopt.prompts.records import ReadPrompt, RecordError, read_record
from skipopt.prompts.text_files import read_text
from skipopt.yaml_values import YamlError, parse_elements

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t"}
YAML_SUFFIXES = (".yaml", ".yml")
BLANK_LINES = "text separated by blank lines"
WHOLE_FILE = "files, each one prompt"
RECORD_HINT = (
    'a record looks like {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}; '
    "--prompt-key names another key"
)
MAX_FIELD = 1 << 24  # characters in a cell of a table; the csv module's default is 131,072


class Numbered(NamedTuple):
    """A record and the line of the file that it begins on."""

    line: int
    record: Any


def read_prompts(path: Path, key: str | None = None) -> tuple[list[Prompt], str]:
    """All distinct prompts of a file or folder, and a line that says what was recognized.

    Raises:
        PromptError: missing, unreadable, malformed, or without prompts.
    """
    if path.is_dir():
        found, left_out = _read_folder(path, key)
    else:
        found, left_out = _read_file(path, key), ""
    prompts = distinct_prompts(each.prompt for each in found)
    return prompts, f"{path}: {_recognized(found, len(prompts))}{left_out}"


def _recognized(found: Sequence[ReadPrompt], distinct: int) -> str:
    """`12 prompts from MT-bench `turns`, first turn of each; …`."""
    shapes = Counter(each.shape for each in found)
    parts = [_counted(count, "prompt") + f" from {shape}" for shape, count in shapes.items()]
    if cut := sum(each.is_cut for each in found):
        parts.append(f"finished answers at the end of {cut} cut off")
    if distinct < len(found):
        parts.append(f"{len(found) - distinct} repeated or blank left out")
    return "; ".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# Folders


def _read_folder(folder: Path, key: str | None) -> tuple[list[ReadPrompt], str]:
    """The prompts of every file, and what was left out, as the end of a line."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise PromptError(
            f"cannot read {str(folder)!r}: {error.strerror}", hint="check its permissions"
        ) from None
    backups = [path.name for path in entries if _is_backup(path.name)]
    seen = [p for p in entries if not p.name.startswith(".") and p.name not in backups]
    files = [path for path in seen if path.is_file()]
    if not files:
        raise PromptError(
            f"{folder}: there are no files in this folder", hint="put each prompt in a file there"
        )
    folders = [path.name for path in seen if path.is_dir()]
    found = [each for path in files for each in _read_folder_file(path, key)]
    return found, _left_out(backups, "editor back-up") + _left_out(folders, "subfolder")


def _read_folder_file(path: Path, key: str | None) -> list[ReadPrompt]:
    if _data_suffix(path) is not None:
        return _read_file(path, key)
    text = read_text(path).strip("\n")
    return [ReadPrompt(Prompt(text, where=str(path)), WHOLE_FILE)]


def _is_backup(name: str) -> bool:
    """Files that editors leave: `x~`, `.#x`, `#x#`, `.x.swp`."""
    return (
        name.endswith(("~", ".swp", ".swo", ".bak"))
        or name.startswith(".#")
        or (len(name) > 1 and name.startswith("#") and name.endswith("#"))
    )


def _left_out(names: Sequence[str], noun: str) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > 3 else ""
    return f"; left out {_counted(len(names), noun)} ({', '.join(names[:3])}{more})"


# Files


def _read_file(path: Path, key: str | None) -> list[ReadPrompt]:
    suffix = _data_suffix(path)
    text = read_text(path)
    if suffix in TABLE_SUFFIXES:
        return list(_read_records(path, _rows(path, text, TABLE_SUFFIXES[suffix]), key))
    if suffix in YAML_SUFFIXES:
        return list(_read_records(path, _yaml_records(path, text), key))
    if suffix is not None or _is_json(text):
        return list(_read_records(path, _json_records(path, text), key))
    if key is not None:
        raise PromptError(
            f"{path}: plain text has no key {key!r}",
            hint="--prompt-key is for JSON, YAML and tables: .jsonl, .json, .yaml, .csv, .tsv",
        )
    return [
        ReadPrompt(Prompt(block, where=f"{path}: line {line}"), BLANK_LINES)
        for line, block in _split_blank_lines(text)
    ]


def _data_suffix(path: Path) -> str | None:
    """`.jsonl`, `.csv`, … of a data file, packed or not; None for text."""
    name = path.name.lower().removesuffix(".gz")
    known = (*JSON_SUFFIXES, *TABLE_SUFFIXES, *YAML_SUFFIXES)
    return next((suffix for suffix in known if name.endswith(suffix)), None)


def _is_json(text: str) -> bool:
    """Whether a file of another name holds JSON objects, or a list of them, and nothing else."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        values = [each.record for each in _values(text)]
    except _JsonError:
        return False
    records = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    return all(isinstance(record, dict) for record in records)


def _read_records(
    path: Path, records: Iterable[Numbered], key: str | None
) -> Iterator[ReadPrompt]:
    for line, record in records:
        where = f"{path}: line {line}"
        try:
            found = read_record(record, key)
        except RecordError as error:
            raise PromptError(f"{where}: {error}", hint=RECORD_HINT) from None
        yield replace(found, prompt=replace(found.prompt, where=where))


def _split_blank_lines(text: str) -> list[tuple[int, str]]:
    """Blocks with the number of their first line. Indentation is part of a prompt of code."""
    blocks: list[tuple[int, list[str]]] = []
    is_open = False
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            is_open = False
        elif is_open:
            blocks[-1][1].append(line)
        else:
            blocks.append((number, [line]))
            is_open = True
    return [(number, "\n".join(lines)) for number, lines in blocks]


def _rows(path: Path, text: str, delimiter: str) -> Iterator[Numbered]:
    """The rows of a table whose first row names the columns."""
    names: list[str] | None = None
    for line, row in _cells(path, text, delimiter):
        where = f"{path}: line {line}"
        if names is None:
            names = _column_names(row, where)
        else:
            yield Numbered(line, _row(row, names, where))


def _cells(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, with the number of their first line."""
    csv.field_size_limit(MAX_FIELD)
    lines = (f"{line}\n" for line in text.split("\n"))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in reader:
            if row:
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise PromptError(
            f"{path}: line {start}: {error}", hint="quote cells that hold quotes or line breaks"
        ) from None


def _column_names(row: Sequence[str], where: str) -> list[str]:
    names = [name.strip() for name in row]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise PromptError(
            f"{where}: two columns are named {twice[0]!r}", hint="give each its own name"
        )
    return names


def _row(row: Sequence[str], names: Sequence[str], where: str) -> dict[str, str]:
    if len(row) != len(names):
        columns = _counted(len(names), "column")
        raise PromptError(
            f"{where}: {_counted(len(row), 'cell')} in a table of {columns}",
            hint="quote cells that hold the separator; the first row names the columns",
        )
    return dict(zip(names, row, strict=True))


# YAML and JSON


def _yaml_records(path: Path, text: str) -> list[Numbered]:
    """The elements of the YAML list that the file holds, each with its line."""
    try:
        return [Numbered(line, value) for line, value in parse_elements(text)]
    except YamlError as error:
        line = f" line {error.line}:" if error.line else ""
        raise PromptError(f"{path}:{line} invalid YAML: {error}", hint=RECORD_HINT) from None


def _json_records(path: Path, text: str) -> list[Numbered]:
    """The objects of JSON Lines, of a JSON list, or of objects over several lines.

    Raises:
        PromptError: with the line of the first error.
    """
    lines = [
        (number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()
    ]
    try:
        values = [Numbered(number, _parse(line, number)) for number, line in lines]
    except _JsonError as of_line:
        if lines and of_line.line != lines[0][0]:
            raise _bad_json(path, of_line) from None
        try:  # the first line is no value by itself: a value may take several lines
            values = list(_values(text))
        except _JsonError as error:
            is_lines = len(lines) > 1 and _is_object(lines[1][1])
            raise _bad_json(path, of_line if is_lines else error) from None
    if len(values) == 1 and isinstance(values[0].record, list):
        return _elements(text, values[0])
    return values


def _is_object(line: str) -> bool:
    """Whether a line is an object by itself, so that the file is meant as JSON Lines."""
    try:
        return isinstance(_parse(line, 1), dict)
    except _JsonError:
        return False


class _JsonError(ValueError):
    """Text that is not JSON, with the line of the error."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _bad_json(path: Path, error: _JsonError) -> PromptError:
    return PromptError(f"{path}: line {error.line}: Invalid JSON: {error}", hint=RECORD_HINT)


def _parse(text: str, line: int) -> Any:
    """One JSON value that begins on `line`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _JsonError(line + error.lineno - 1, error.msg) from None
    except (RecursionError, ValueError) as error:
        raise _JsonError(line, _beyond_limits(error)) from None


def _beyond_limits(error: Exception) -> str:
    """Why Python does not read JSON that is well-formed so far."""
    if isinstance(error, RecursionError):
        return "too deeply nested"
    return "a number with too many digits"


def _values(text: str, start: int = 0, separators: str = "") -> Iterator[Numbered]:
    """JSON values one after another, whatever lines they take, with the line each begins on."""
    decoder, blank = json.JSONDecoder(), re.compile(f"[\\s{separators}]*")
    line, counted = 1, 0
    at = start
    while True:
        found = blank.match(text, at)
        at = found.end() if found else at
        line, counted = line + text.count("\n", counted, at), at
        if at >= len(text):
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _JsonError(error.lineno, error.msg) from None
        except (RecursionError, ValueError) as error:
            raise _JsonError(line, _beyond_limits(error)) from None
        yield Numbered(line, value)


def _elements(text: str, whole: Numbered) -> list[Numbered]:
    """The elements of the JSON list that is the whole text, each with its line."""
    inside = text.rstrip()[:-1]
    values = _values(inside, inside.index("[") + 1, separators=",")
    return [next(values) for _ in whole.record]
