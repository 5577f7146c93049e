"""How often copied tokens are right, by source and length of the match, beside the priors.

    python -m benchmarks.copy_acceptance NAME=texts.memory … --output results/copy-acceptance

Each memory (`python -m benchmarks.remember_texts`) holds plain continuations of a model's
calibration prompts. The last tokens of every text are guessed from what comes before them in it,
and from the other texts of its memory. What the first copies of a text give beside the priors is
what a new text can expect; later ones are of texts that repeat much. A second copy is the next
most frequent token in the place of a wrong one.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.result_files import page_head, shown_path, write_results
from skipopt.draft_memory.memory import DraftMemory
from skipopt.drafting.copies import CopyFinder
from skipopt.environment import environment_record
from skipopt.online.acceptance import MAX_MATCH, PRIOR_SECOND_COPY, copy_acceptance
from skipopt.study.copy_replay import MAX_COPY

FEWEST = 20  # guesses that a row of the page stands for
FEW = 8
FIRST = f"any, the first {FEW} of each text"
ANY = "any"
SECOND = "second copy"


class Comparison(NamedTuple):
    """A copied token that follows right ones, and what the text goes on with.

    Attributes:
        source: where it was copied from.
        match: tokens that matched before it; `ANY` for second copies.
        chance: by the prior.
        right: the text goes on with it.
    """

    source: str
    match: int | str
    chance: float
    right: bool


@dataclass(slots=True)
class Guesses:
    """Copied tokens of one kind.

    Attributes:
        guessed: how many.
        right: of these.
        expected: sum of their chances by the priors.
    """

    guessed: int = 0
    right: int = 0
    expected: float = 0.0

    def add(self, found: Comparison) -> None:
        """Count one more."""
        self.guessed += 1
        self.right += found.right
        self.expected += found.chance


# By source, and by the match, `FIRST` or `ANY`.
Table = dict[tuple[str, int | str], Guesses]


def measure(texts: Sequence[Sequence[int]], tokens: int) -> Table:
    """What copies into the last `tokens` of each text, from it and from the others, give."""
    found: Table = defaultdict(Guesses)
    for number, text in enumerate(texts):
        memory = DraftMemory()
        for other in (*texts[:number], *texts[number + 1 :]):
            memory.add(other)
        for each in _compared(CopyFinder(MAX_COPY, memory), text, tokens):
            found[each.source, each.match].add(each)
        own = _compared(CopyFinder(MAX_COPY), text, tokens)
        for each in islice((each for each in own if each.source != SECOND), FEW):
            found[each.source, FIRST].add(each)
    return found


def _compared(finder: CopyFinder, text: Sequence[int], tokens: int) -> Iterator[Comparison]:
    """The copies to each of the last `tokens` places, each up to the first wrong token."""
    for start in range(max(1, len(text) - tokens), len(text)):
        copy = finder.find(text[:start], (), MAX_COPY)
        guesses = copy.guesses(copy_acceptance(), PRIOR_SECOND_COPY)
        for i, (guess, token) in enumerate(zip(guesses, text[start:], strict=False)):
            match, right = min(copy.found.matched + i, MAX_MATCH), guess.token == token
            yield Comparison(guess.source, match, guess.chance, right)
            if not right:
                for other in guess.alternatives:
                    yield Comparison(SECOND, ANY, PRIOR_SECOND_COPY, other.token == token)
                break


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


def _order(row: tuple[tuple[str, int | str], Guesses]) -> tuple[str, float]:
    source, match = row[0]
    return source, inf if isinstance(match, str) else match


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
            for (source, match), row in sorted(table.items(), key=_order)
        ]
    command = f"python -m benchmarks.copy_acceptance {' '.join(given.memories)}"
    command += f" --tokens {given.tokens} --output {shown_path(given.output)}"
    environment = environment_record("cpu", "float32", "auto", 1)
    record = {"command": command, "environment": environment, "models": models}
    write_results(given.output, record, list(report(record)))


if __name__ == "__main__":
    main()
