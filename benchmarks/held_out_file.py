"""A prompt file whose held-out half are prompts that no setting was chosen on.

    python -m benchmarks.held_out_file --skip 32 --output held-out-33-48.jsonl
    python -m benchmarks.held_out_file --prompts results/unseen-prompts.jsonl --output unseen.jsonl

The general held-out prompts that `bench` takes last, or all prompts of a file. The other half of
the file are calibration and validation prompts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from skipopt.files import write_atomically
from skipopt.prompts import load_prompts
from skipopt.prompts.prompt import Prompt, split_prompts
from skipopt.prompts.reading import read_prompts


def in_order(wanted: Sequence[Prompt], others: Sequence[Prompt]) -> Iterator[Prompt]:
    """Pairs of which the wanted prompt is held out when the list is split."""
    left = list(others)
    for prompt in wanted:
        pairs = (pair for other in left for pair in ((prompt, other), (other, prompt)))
        pair = next(each for each in pairs if split_prompts(each, "").held_out == (prompt,))
        left = [other for other in left if other not in pair]
        yield from pair


def record_of(prompt: Prompt) -> dict[str, Any]:
    """A line of the file."""
    assert prompt.messages is not None
    return {"messages": prompt.chat(), "category": prompt.category}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--skip", type=int, default=32, help="held-out prompts that stay out")
    parser.add_argument("--prompts", type=Path, help="these in place of general ones")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    prompts = load_prompts(model_id="any stock model")
    wanted = prompts.held_out[given.skip :]
    if given.prompts is not None:
        wanted = tuple(read_prompts(given.prompts)[0])
    found = list(in_order(wanted, (*prompts.calibration, *prompts.validation)))
    assert split_prompts(found, "").held_out == wanted
    lines = (json.dumps(record_of(each), ensure_ascii=False) for each in found)
    write_atomically(given.output, "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
