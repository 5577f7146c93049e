"""The Markdown page of `benchmarks.runtime_speed`, from its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skipopt.measurement.provenance import as_texts

Json = Mapping[str, Any]


def lines(record: Json) -> Iterator[str]:
    """The whole page."""
    yield "# Runtimes\n"
    yield f"`{record['command']}`\n"
    yield "Ratios are medians of paired, interleaved decodings with 95 % bootstrap intervals over"
    yield "prompts. v(n) and c come from whole rounds (`skipopt.measurement.cost_measurement`)."
    for model in record["models"]:
        yield from model_lines(model)


def model_lines(model: Json) -> Iterator[str]:
    yield f"\n## {model['model']['id']}\n"
    for key, value in as_texts(model["environment"]).items():
        if key != "runtime":
            yield f"- {key}: {value}"
    yield f"- texts: {model['workload']['num_timed']}"
    yield from plain_lines(model["plain"])
    yield from cost_lines(model["costs"])
    yield from time_lines(model["time"])
    if "speculation" in model:
        yield from speculation_lines(model["speculation"])
        yield from memory_lines(model["memory"])


def plain_lines(rows: Sequence[Json]) -> Iterator[str]:
    yield "\n### Plain decoding\n"
    yield "| runtime | ran | tokens/s | vs generate | vs eager | prepacked copies |"
    yield "|---|---|--:|--:|--:|--:|"
    for row in rows:
        yield (
            f"| {row['name']} | {row['ran'] or '–'} | {row['tokens_per_second']:.1f} "
            f"| {interval(row['vs_generate'])} | {interval(row['vs_eager'])} "
            f"| {megabytes(row['prepacked_bytes'])} |"
        )


def cost_lines(costs: Json) -> Iterator[str]:
    first = next(iter(costs.values()))
    yield f"\n### Relative to a plain step of the same runtime, {first['context']} tokens before\n"
    yield "| | " + " | ".join(costs) + " |"
    yield "|---|" + "--:|" * len(costs)
    plain = (f"{1e3 * each['plain_seconds']:.2f} ms" for each in costs.values())
    yield "| a plain step | " + " | ".join(plain) + " |"
    for n in range(1, len(first["verify"]) + 1):
        cells = (f"{each['verify'][n - 1]:.2f}" for each in costs.values())
        yield f"| v({n}) | " + " | ".join(cells) + " |"
    for name in first["draft"]:
        cells = (f"{each['draft'][name]['cost']:.3f}" for each in costs.values())
        yield f"| c skipping {name} | " + " | ".join(cells) + " |"


def time_lines(time: Json) -> Iterator[str]:
    yield "\n### Where the time of decoding goes\n"
    yield "| runtime, method | draft forwards | target forwards | host |"
    yield "|---|--:|--:|--:|"
    for runtime, methods in time.items():
        for method, shares in methods.items():
            cells = " | ".join(f"{share:.1%}" for share in shares.values())
            yield f"| {runtime}, {method} | {cells} |"


def speculation_lines(found: Json) -> Iterator[str]:
    yield "\n### Measured speedup and the speedup law\n"
    yield f"Mask `{found['mask']}`, γ = {found['gamma']}, τ = {found['tau']}, runtime auto.\n"
    rows = {
        "α of one drafted token": number(found["alpha"]),
        "c": number(found["draft_cost"]),
        "v(γ + 1)": number(found["verify_cost"]),
        "drafted per round": number(found["drafted_per_round"]),
        "tokens per round": number(found["tokens_per_round"]),
        "law, from the rounds that ran: E[tokens] / E[drafted·c + v(drafted + 1)]": number(
            found["law_of_rounds"]
        ),
        "law, if every draft had γ tokens, accepted independently with α": number(
            found["law_if_independent"]
        ),
        "measured, against plain decoding": interval(found["measured"]),
    }
    yield "| | |\n|---|--:|"
    for name, value in rows.items():
        yield f"| {name} | {value} |"


def memory_lines(rows: Sequence[Json]) -> Iterator[str]:
    yield "\n### Peak memory of `skipopt run`\n"
    yield "Each run is a process of its own, which chooses by measurement what to prepack.\n"
    head = ("runtime", "plain", "copies of weights", "with the mask", "copies of weights")
    yield f"| {' | '.join(head)} | ratio without copies |"
    yield "|---|--:|--:|--:|--:|--:|"
    for row in rows:
        cells = [
            megabytes(row[run][part])
            for run in ("plain", "profile")
            for part in ("resident", "copies")
        ]
        yield f"| {row['runtime']} | {' | '.join(cells)} | {row['ratio_without_copies']:.3f} |"


def interval(found: Mapping[str, float]) -> str:
    return f"{found['median']:.2f}× ({found['low']:.2f}–{found['high']:.2f})"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count else "–"
