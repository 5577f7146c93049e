"""Files of a benchmark's results: a JSON record and a Markdown page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skipopt.files import write_atomically
from skipopt.measurement.provenance import as_texts


def log(line: str) -> None:
    """Print a line of progress at once."""
    print(f"  {line}", flush=True)


def environment_lines(environment: Mapping[str, Any]) -> list[str]:
    """A Markdown list item for each entry of an environment."""
    return [f"- {key}: {value}" for key, value in as_texts(environment).items()]


def page_head(title: str, record: Mapping[str, Any]) -> list[str]:
    """The first lines of a page: its title, the record's command and environment."""
    environment = environment_lines(record["environment"])
    return [f"# {title}", "", f"`{record['command']}`", "", *environment]


def write_results(prefix: Path, record: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Write PREFIX.json and PREFIX.md, and print the page."""
    save_results(prefix, record, lines)
    print("\n".join(lines))
    print(f"wrote {prefix}.json and {prefix}.md")


def earlier_record(prefix: Path, command: str) -> dict[str, Any] | None:
    """What an interrupted run of the same command has written to PREFIX.json; None if nothing.

    Raises:
        SystemExit: the file is of another command.
    """
    file = prefix.with_name(f"{prefix.name}.json")
    if not file.exists():
        return None
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if record.get("command") != command:
        raise SystemExit(
            f"{file} is of another command: {record.get('command', 'unknown')}\n"
            "hint: delete it to begin anew, or choose another --output"
        )
    print(f"{file}: goes on where the same command ended")
    return record


def shown_path(path: Path) -> str:
    """As a command in results names it: the name alone of a file elsewhere on this machine."""
    return path.name if path.is_absolute() else str(path)


def save_results(prefix: Path, record: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Write PREFIX.json and PREFIX.md."""
    write_file(prefix.with_name(f"{prefix.name}.json"), json.dumps(record, indent=1))
    write_file(prefix.with_name(f"{prefix.name}.md"), "\n".join(lines))


def write_file(path: Path, text: str) -> None:
    """Write `text` and a newline, whole or not at all; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{text}\n")
