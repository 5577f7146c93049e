"""What a benchmark writes: a record, and the page that tells it, which opens with the machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skipopt.bench.provenance import as_texts


def environment_lines(environment: Mapping[str, Any]) -> list[str]:
    """One of Markdown for each fact of machine and versions."""
    return [f"- {key}: {value}" for key, value in as_texts(environment).items()]


def write_record(prefix: Path, record: Mapping[str, Any], lines: Sequence[str]) -> None:
    """PREFIX.json and PREFIX.md."""
    write(prefix.with_name(f"{prefix.name}.json"), json.dumps(record, indent=1))
    write(prefix.with_name(f"{prefix.name}.md"), "\n".join(lines))


def write(path: Path, text: str) -> None:
    """With its folder, where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {path}")
