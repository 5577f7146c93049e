"""How often copied tokens are right, by source and length of the match, beside the priors.

    python -m benchmarks.copy_acceptance NAME=texts.memory … --output results/copy-acceptance

Each memory (`python -m benchmarks.remember_texts`) holds plain continuations of a model's
calibration prompts. The last tokens of every text are guessed from what comes before them in it,
and from the other texts of its memory.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.result_files import page_head, shown_path, write_results
from skipopt.draft_memory.memory import DraftMemory
from skipopt.drafting.copies import CopyFinder
from skipopt.environment import environment_record
from skipopt.online.acceptance import MAX_MATCH, copy_acceptance
from skipopt.study.copy_replay import MAX_COPY

FEWEST = 20  # guesses that a row of the page stands for


@dataclass(slots=True)
class Guesses:
    """Copied tokens of one source after matches of one length.

    Attributes:
        guessed: tokens that follow right ones.
        right: of these.
        expected: sum of their chances by the priors.
    """

    guessed: int = 0
    right: int = 0
    expected: float = 0.0


Table = dict[tuple[str, int], Guesses]


def measure(texts: Sequence[Sequence[int]], tokens: int) -> Table:
    """What copies into the last `tokens` of each text, from it and from the others, give."""
    found: Table = defaultdict(Guesses)
    for number, text in enumerate(texts):
        memory = DraftMemory()
        for other in (*texts[:number], *texts[number + 1 :]):
            memory.add(other)
        finder = CopyFinder(MAX_COPY, memory)
        for start in range(max(1, len(text) - tokens), len(text)):
            finder.index(text[:start])
            _compare(finder, text, start, found)
    return found


def _compare(finder: CopyFinder, text: Sequence[int], start: int, found: Table) -> None:
    copy = finder.find(text[:start], (), MAX_COPY)
    for i, (guess, token) in enumerate(
        zip(copy.guesses(copy_acceptance()), text[start:], strict=False)
    ):
        row = found[guess.source, min(copy.found.matched + i, MAX_MATCH)]
        row.guessed += 1
        row.right += guess.token == token
        row.expected += guess.chance
        if guess.token != token:
            return


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page."""
    yield from page_head("How often copied tokens are right", record)
    for name, rows in record["models"].items():
        yield from ("", f"**{name}**", "", "| source | match | guesses | right | by the prior |")
        yield "|---|--:|--:|--:|--:|"
        for row in rows:
            if (count := row["guessed"]) >= FEWEST:
                right, expected = row["right"] / count, row["expected"] / count
                cells = (row["source"], row["match"], count, f"{right:.2f}", f"{expected:.2f}")
                yield f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("memories", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--tokens", type=int, default=64, help="guessed of each text")
    parser.add_argument("--output", type=Path, default=Path("results/copy-acceptance"))
    given = parser.parse_args()
    models = {}
    for each in given.memories:
        name, _, path = each.partition("=")
        table = measure([list(text) for text in DraftMemory.load(path).texts()], given.tokens)
        models[name] = [
            {"source": source, "match": match, **asdict(row)}
            for (source, match), row in sorted(table.items())
        ]
    command = f"python -m benchmarks.copy_acceptance {' '.join(given.memories)}"
    command += f" --tokens {given.tokens} --output {shown_path(given.output)}"
    environment = environment_record("cpu", "float32", "auto", 1)
    record = {"command": command, "environment": environment, "models": models}
    write_results(given.output, record, list(report(record)))


if __name__ == "__main__":
    main()
