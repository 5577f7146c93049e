"""The results as one JSON file and one Markdown page, saved after every step.

A later call with other parts keeps the results of earlier ones. Each part has the environment and
the command it was measured with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skipopt.errors import OutputError
from skipopt.files import write_atomically

SCHEMA = "skipopt-gpu-benchmark"
JSON_NAME, PAGE_NAME = "gpu.json", "gpu.md"
Cells = list[str]


class Record:
    """The document and the folder it is saved in.

    Attributes:
        parts: by name: `status` (`running`, `done`, `failed`, `not run`), `reason`, `seconds`,
            `command`, `environment`, `found`.
    """

    def __init__(self, folder: Path, environment: Mapping[str, Any], command: str) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._command = command
        self.parts: dict[str, dict[str, Any]] = _earlier(folder / JSON_NAME)

    def put(
        self,
        part: str,
        status: str,
        seconds: float = 0.0,
        found: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        """Set the status and results of a part, and save everything."""
        self.parts[part] = {
            "status": status,
            "reason": reason,
            "seconds": seconds,
            "command": self._command,
            "environment": self._environment,
            "found": dict(found or {}),
        }
        self.parts = {name: self.parts[name] for name in PAGES if name in self.parts}
        self.save()

    def save(self) -> None:
        """Write both files.

        Raises:
            OutputError: the folder cannot be written to.
        """
        document = {"schema": SCHEMA, "environment": self._environment, "parts": self.parts}
        write_atomically(self._folder / JSON_NAME, json.dumps(document, indent=1) + "\n")
        write_atomically(self._folder / PAGE_NAME, page(document))


def _earlier(path: Path) -> dict[str, dict[str, Any]]:
    """Parts of an earlier call.

    Raises:
        OutputError: the file is of another kind, and must not be overwritten.
    """
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text())
        if document["schema"] == SCHEMA:
            return dict(document["parts"])
    except (ValueError, KeyError, TypeError):
        pass
    raise OutputError(f"{str(path)!r} is not from this benchmark", hint="give another --output")


def page(document: Mapping[str, Any]) -> str:
    """The document as Markdown."""
    lines = ["# On a GPU\n", *_facts(document["environment"])]
    for name, part in document["parts"].items():
        lines += ["", f"## {name}\n", f"`{part['command']}`\n", _status(part)]
        if part["environment"] != document["environment"]:
            lines += ["", *_facts(part["environment"])]
        if part["found"]:
            lines += ["", *PAGES[name](part["found"])]
    return "\n".join(lines) + "\n"


def _status(part: Mapping[str, Any]) -> str:
    reason = f": {part['reason']}" if part["reason"] else ""
    return f"{part['status']}{reason}; {part['seconds']:.0f} s"


def _facts(values: Mapping[str, Any]) -> list[str]:
    return [f"- {key}: {value}" for key, value in values.items()]


def _train(found: Mapping[str, Any]) -> list[str]:
    return _facts({key: value for key, value in found.items() if key != "recipe"})


def _search(found: Mapping[str, Any]) -> list[str]:
    profile = found["profile"]
    drafting, measured = profile["drafting"], profile["measured"]
    speedup = _interval(measured["speedup"]) if measured else "not measured"
    return _facts(
        {
            "runtime": found["runtime"],
            "seconds": f"{found['seconds']:.0f}",
            "trials": (profile["search"] or {}).get("trials"),
            "enabled": profile["enabled"],
            "reason": profile["reason"],
            "drafts": f"{drafting['method']}, γ = {drafting['gamma']}, τ = {drafting['tau']}",
            "mask": found["mask"],
            "speedup on calibration prompts": speedup,
        }
    )


def _methods(found: Mapping[str, Any]) -> list[str]:
    facts = _facts(
        {
            "speedups against": found["baseline"],
            "mask": f"{found['mask']} ({found['profile']})",
            "texts": f"{found['prompts']['num_timed']} prompts, "
            f"up to {found['new_tokens']} tokens, "
            f"{found['timed_texts']} decodings timed",
            "repetition": "left in: there is nothing else"
            if found["repetition_left_in"]
            else "cut",
            "peak memory": _gigabytes(found["peak_memory_bytes"]),
        }
    )
    head = (
        "method",
        "runtime",
        "tokens/s",
        "speedup",
        "acceptance rate",
        "tokens per forward",
        "text",
    )
    return [*facts, "", *_table(head, map(_method, found["methods"]))]


def _method(row: Mapping[str, Any]) -> Cells:
    name, runtime = f"`{row['name']}`", row.get("runtime", "–")
    if row["error"]:
        return [name, runtime, "–", "–", "–", "–", f"not run: {row['error']}"]
    text = row["lossless"]
    return [
        name,
        runtime,
        f"{row['tokens_per_second']:.1f}",
        _interval(row["speedup"]),
        _number(row["acceptance_rate"]),
        _number(row["mean_acceptance_length"]),
        _lossless(text, row["unchecked_texts"]) if text else "not checked",
    ]


def _lossless(text: Mapping[str, Any], unchecked: int) -> str:
    rest = f"; {unchecked} not checked, no time" if unchecked else ""
    if text["verdict"] == "exact":
        return f"exact{rest}"
    margin = f", margin {text['margin']:.3g}" if text["margin"] is not None else ""
    counts = f"{text['exact']} exact, {text['within_margin']} within, {text['failed']} failed"
    return f"{text['verdict']} ({counts}{margin}){rest}"


def _shapes(found: Mapping[str, Any]) -> list[str]:
    copied = found["copy_bytes_per_second"] / 1e9
    lines = [
        *_facts(found["device"]),
        f"- copy within the device, read and written: {copied:.0f} GB/s",
        f"- context: {found['context']} tokens",
        "",
    ]
    head = (
        "model",
        "runtime",
        "tokens/s",
        "GB/s",
        "of copy bandwidth",
        "host share",
        "memory",
        "note",
    )
    lines += _table(head, map(_shape, found["models"]))
    for row in found["models"]:
        if "draft_costs" in row:
            lines += ["", f"### {row['model']} under {row['runtime']}\n", *_costs(row)]
    return lines


def _shape(row: Mapping[str, Any]) -> Cells:
    if "tokens_per_second" not in row:
        return [row["model"], row["runtime"], *["–"] * 5, row.get("error", "running")]
    return [
        row["model"],
        row["runtime"],
        f"{row['tokens_per_second']:.1f}",
        f"{row['bytes_per_second'] / 1e9:.0f}",
        f"{row['share_of_copy_bandwidth']:.0%}",
        "–" if row["host_share"] is None else f"{row['host_share']:.0%}",
        _gigabytes(row["peak_memory_bytes"]),
        f"{row['repeats']} repeats",
    ]


def _costs(row: Mapping[str, Any]) -> list[str]:
    drafts = (
        [str(each["skipped"]), f"{each['kept_share']:.2f}", _interval(each["draft_cost"], "")]
        for each in row["draft_costs"]
    )
    verified = ([str(each["tokens"]), _interval(each, "")] for each in row["verify_costs"])
    return [
        *_table(("sublayers skipped", "share of bytes kept", "draft cost c"), drafts),
        "",
        *_table(("tokens verified n", "v(n)"), verified),
    ]


PAGES = {"train": _train, "search": _search, "methods": _methods, "shapes": _shapes}


def _table(head: tuple[str, ...], rows: Iterator[Cells]) -> list[str]:
    lines = [list(head), ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def _interval(value: Mapping[str, float], unit: str = "×") -> str:
    return f"{value['median']:.2f}{unit} ({value['low']:.2f}–{value['high']:.2f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _gigabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.2f} GB"
