"""Cuts the built-in prompts from library files that the built-in model was not trained on.

    python -m tools.make_builtin_prompts
    python -m tools.make_builtin_prompts --elsewhere FILE

Writes `skipopt/data/prompts.jsonl`, or to FILE prompts cut from other places of the same files,
for measurements on prompts that no choice was based on. Each prompt starts at a `def` or `class`
and ends after a whole statement within a body, so that the model continues with code. All prompts
of a file are for calibration, or all are held out.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import tokenize
from collections.abc import Iterator, Mapping
from importlib.resources import files
from itertools import accumulate, pairwise
from pathlib import Path

from skipopt.files import write_atomically
from skipopt.training.corpus import read_corpus

PARTS = ("calibration", "held_out")
SHORTEST, LONGEST = 460, 810  # characters; about 120 to 260 tokens of the built-in model
MAX_PER_FILE = 4
CHARACTERS_PER_PROMPT = 4000
# Files with another copyright owner may need more than the license of the library.
OWN_NOTICE = re.compile(r"copyright\D{0,10}\d{4}(?!.*Python Software Foundation)", re.IGNORECASE)
OPENING = re.compile(r"[ ]*(async def|def|class)\b")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elsewhere", type=Path, metavar="FILE")
    elsewhere: Path | None = parser.parse_args().elsewhere
    path = elsewhere or Path(str(files("skipopt") / "data" / "prompts.jsonl"))
    path.parent.mkdir(exist_ok=True)
    records = prompt_records(read_corpus()[1], elsewhere is not None)
    lines = [json.dumps(record) for record in records]
    write_atomically(path, "\n".join(lines) + "\n")
    print(f"{len(lines)} prompts in {path}")


def prompt_records(texts: Mapping[str, str], elsewhere: bool = False) -> list[dict[str, str]]:
    """One record (`file`, `part`, `prompt`) per prompt, from files keyed by name."""
    snippets = {name: cut_snippets(text, elsewhere) for name, text in sorted(texts.items())}
    parts = deal_files({name: len(cut) for name, cut in snippets.items()})
    return [
        {"file": name, "part": parts[name], "prompt": prompt}
        for name, cut in snippets.items()
        for prompt in cut
    ]


def deal_files(counts: Mapping[str, int]) -> dict[str, str]:
    """Assign files to parts: those with the most prompts first, each to the smaller part."""
    totals = dict.fromkeys(PARTS, 0)
    parts: dict[str, str] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        parts[name] = min(PARTS, key=totals.__getitem__)
        totals[parts[name]] += counts[name]
    return parts


def cut_snippets(text: str, elsewhere: bool = False) -> list[str]:
    """Up to `MAX_PER_FILE` prompts, spread over the file; none if it has another owner.

    Args:
        elsewhere: only prompts that are not cut otherwise.
    """
    if OWN_NOTICE.search(text):
        return []
    lines = text.split("\n")
    spans = list(_spans(lines, _statement_ends(text)))
    wanted = min(MAX_PER_FILE, round(len(text) / CHARACTERS_PER_PROMPT), len(spans))
    chosen = _spread(spans, wanted)
    if elsewhere:
        others = [span for span in spans if span not in chosen]
        chosen = _spread(others, min(wanted, len(others)))
    return ["\n".join(lines[start:end]) for start, end in chosen]


def _spread(spans: list[tuple[int, int]], wanted: int) -> list[tuple[int, int]]:
    return [spans[(4 * i + 3) * len(spans) // (4 * wanted)] for i in range(wanted)]


def _spans(lines: list[str], ends: list[int]) -> Iterator[tuple[int, int]]:
    """(first line, line after the last) of prompts that do not overlap, in order."""
    offsets = [0, *accumulate(len(line) + 1 for line in lines)]
    free = 0
    for start, line in enumerate(lines):
        if start < free or not OPENING.match(line):
            continue
        # The last line's break is not part of the prompt.
        fitting = [e for e in ends if SHORTEST <= offsets[e] - offsets[start] - 1 <= LONGEST]
        if fitting:
            # The end is chosen by a hash, so that lengths vary.
            choice = hashlib.sha256(line.encode()).digest()[1] % len(fitting)
            free = fitting[choice]
            yield start, free


def _statement_ends(text: str) -> list[int]:
    """Line numbers (from one) after which another statement of an indented body follows.

    Found with the tokenizer, so that no prompt ends inside a string or a bracket.
    """
    layout = (tokenize.NL, tokenize.INDENT, tokenize.DEDENT)
    found = tokenize.generate_tokens(io.StringIO(text).readline)
    tokens = [token for token in found if token.type not in layout]
    return [
        token.start[0]
        for token, following in pairwise(tokens)
        if token.type == tokenize.NEWLINE
        and following.start[0] == token.start[0] + 1
        and following.start[1] > 0
        and following.type != tokenize.COMMENT
    ]


if __name__ == "__main__":
    main()
