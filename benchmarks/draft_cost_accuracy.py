"""Predicted against measured cost of draft steps, for random masks.

    python -m benchmarks.draft_cost_accuracy --threads 2

The prediction comes from rounds with four masks (`skipopt.measurement.cost_measurement`). Here
masks of every skip ratio are drawn at random. Each drafts 2 and 8 tokens a round; a sixth of the
difference is the cost of one step. Rounds of five masks and plain rounds are interleaved; medians
of repeats.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import median

import torch

import skipopt
from benchmarks.result_files import environment_lines, write_results
from skipopt.cost_model.costs import Costs
from skipopt.draft_config import UNCHANGED
from skipopt.masks import SkipMask
from skipopt.measurement.cost_measurement import measure_costs
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.timed_rounds import (
    PLAIN_ROUND,
    DraftSpec,
    chain_drafter,
    max_new_tokens,
    time_rounds,
)
from skipopt.models.target import Target
from skipopt.prompts import load_prompts
from skipopt.runtime.engine import Engine

SHORT, LONG = 2, 8  # drafted tokens
MASKS_AT_ONCE = 5  # whose rounds are interleaved in one text


@dataclass(frozen=True, slots=True)
class Row:
    """Costs of a draft step under a mask, in plain steps.

    Attributes:
        predicted: from costs that were measured before the draft steps.
        predicted_after: from costs that were measured after them.
    """

    mask: str
    skipped: int
    predicted: float
    predicted_after: float
    measured: float


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model)
    text = target.tokenizer(load_prompts().calibration[0].text)["input_ids"]
    masks = random_masks(target.depth, given.masks)
    before = measure_costs(target, text, LONG + 1)
    steps = measure_steps(target, text, masks, given.repeats)
    after = measure_costs(target, text, LONG + 1)
    rows = [row_of(mask, before, after, step) for mask, step in zip(masks, steps, strict=True)]
    environment = environment_of(target)
    record = {
        "environment": environment,
        "context": len(text),
        "masks": [asdict(row) for row in rows],
    }
    lines = [
        "# Draft costs: predicted against measured\n",
        f"`python -m benchmarks.draft_cost_accuracy {given.model} --threads {given.threads} "
        f"--masks {given.masks} --repeats {given.repeats}`\n",
        *environment_lines(environment),
        f"\n{len(rows)} masks at random, {len(text)} tokens of context.\n",
        *table_of(rows),
    ]
    write_results(given.output, record, lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--masks", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("results/draft-cost-accuracy"))
    return parser.parse_args()


def random_masks(depth: int, count: int) -> list[SkipMask]:
    """Masks with evenly spread skip ratios."""
    rng = Random(0)
    ratios = [(i + 0.5) / count for i in range(count)]
    return [
        SkipMask(depth, frozenset(i for i in range(2 * depth) if rng.random() < ratio))
        for ratio in ratios
    ]


def row_of(mask: SkipMask, before: Costs, after: Costs, step: float) -> Row:
    predicted, predicted_after = (c.draft_step(mask) / c.plain for c in (before, after))
    return Row(str(mask), len(mask.skipped), predicted, predicted_after, step)


def table_of(rows: Sequence[Row]) -> Iterator[str]:
    """A row for each moment the costs were measured at."""
    yield "| costs measured | median error | 90 % of errors below | largest |"
    yield "|---|---|---|---|"
    before = sorted(abs(row.predicted / row.measured - 1) for row in rows)
    after = sorted(abs(row.predicted_after / row.measured - 1) for row in rows)
    for when, errors in (("before", before), ("after", after)):
        most = errors[int(0.9 * len(errors))]
        yield f"| {when} | {median(errors):.1%} | {most:.1%} | {errors[-1]:.1%} |"


def measure_steps(
    target: Target, text: Sequence[int], masks: Sequence[SkipMask], repeats: int
) -> list[float]:
    """Cost of one draft step under each mask, in plain steps of the same repeat."""
    found: dict[SkipMask, list[float]] = {mask: [] for mask in masks}
    for repeat in range(repeats + 1):
        for i in range(0, len(masks), MASKS_AT_ONCE):
            group = masks[i : i + MASKS_AT_ONCE]
            for mask, step in _time_group(target, text, group, long_first=bool(repeat % 2)):
                if repeat:  # the first one is a warm-up
                    found[mask].append(step)
    return [median(found[mask]) for mask in masks]


def _time_group(
    target: Target, text: Sequence[int], masks: Sequence[SkipMask], long_first: bool
) -> Iterator[tuple[SkipMask, float]]:
    """The cost of a draft step under each mask, from one decoding of the text."""
    lengths = (LONG, SHORT) if long_first else (SHORT, LONG)
    specs = [
        spec
        for mask in masks
        for spec in (*(DraftSpec(length, mask) for length in lengths), PLAIN_ROUND)
    ]
    engine = Engine(target, len(text) + max_new_tokens(specs) + 2 * LONG)
    clock = target.runtime.clock_without_capture(time.perf_counter)
    make = partial(chain_drafter, target, UNCHANGED)
    with target.runtime.capture_immediately():
        times = list(time_rounds(make, engine, text, specs, clock))
    draft = {spec: each.draft for spec, each in times}
    plain = median(each.total for spec, each in times if spec == PLAIN_ROUND)
    for mask in masks:
        difference = draft[DraftSpec(LONG, mask)] - draft[DraftSpec(SHORT, mask)]
        yield mask, difference / (LONG - SHORT) / plain


if __name__ == "__main__":
    main()
