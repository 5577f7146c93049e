"""Is the price of a draft step right? Predicted against measured cost of random masks.

    python -m benchmarks.draft_cost_accuracy --threads 2 --output results/draft-cost-accuracy

Prices come from rounds under four masks. Here masks are drawn at random, of every skip ratio; each
drafts 2 and 8 tokens a round, and the difference over 6 is what one more step costs. Rounds of
all masks and of plain decoding are interleaved; medians over repeats.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import median

import torch

import skipopt
from benchmarks.result_files import environment_lines, write_record
from skipopt.bench.cost_measurement import measure_costs
from skipopt.bench.provenance import environment_of
from skipopt.decoding.loop import Limits, decode
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.prompts import load_prompts
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions

SHORT, LONG = 2, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--masks", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("results/draft-cost-accuracy"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model)
    text = target.tokenizer(load_prompts().calibration[0].text)["input_ids"]
    masks = random_masks(target.depth, given.masks)
    costs = measure_costs(target, text, LONG + 1)
    measured = measure_steps(target, text, masks, given.repeats)
    again = measure_costs(target, text, LONG + 1)
    rows = [
        {
            "mask": str(mask),
            "skipped": len(mask.skipped),
            "predicted": costs.draft_step(mask) / costs.plain,
            "predicted_after": again.draft_step(mask) / again.plain,
            "measured": step,
        }
        for mask, step in zip(masks, measured, strict=True)
    ]
    errors = [abs(row["predicted"] / row["measured"] - 1) for row in rows]
    after = [abs(row["predicted_after"] / row["measured"] - 1) for row in rows]
    environment = environment_of(target)
    record = {"environment": environment, "context": len(text), "masks": rows}
    lines = [
        "# Draft costs: predicted against measured\n",
        f"`python -m benchmarks.draft_cost_accuracy {given.model} --threads {given.threads} "
        f"--masks {given.masks} --repeats {given.repeats}`\n",
        *environment_lines(environment),
        f"\n{len(rows)} masks at random, {len(text)} tokens of context.\n",
        "| prices measured | median error | 90 % of errors below | largest |\n|---|---|---|---|",
        *(
            f"| {when} | {median(e):.1%} | {sorted(e)[int(0.9 * len(e))]:.1%} | {max(e):.1%} |"
            for when, e in (("before", errors), ("after", after))
        ),
    ]
    write_record(given.output, record, lines)
    print("\n".join(lines))


def random_masks(depth: int, count: int) -> list[SkipMask]:
    """Every share of skipped sublayers is as likely."""
    rng = Random(0)
    shares = [(i + 0.5) / count for i in range(count)]
    return [SkipMask.from_bits([rng.random() < s for _ in range(2 * depth)]) for s in shares]


class Turns(Drafter):
    """Each mask in turn, a short draft and a long one; then a plain round."""

    max_extra_rows = LONG

    def __init__(self, target: Target, turns: Sequence[tuple[SkipMask, int] | None]) -> None:
        self._target = target
        self._turns = iter(turns)
        self._clock = target.runtime.clock_without_capture(time.perf_counter)
        self.seconds = 0.0

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        turn = next(self._turns)
        if turn is None:
            return DraftTree()
        drafter = LayerSkipDrafter(self._target, turn[0], turn[1])
        began = self._clock()
        tree = drafter.propose(state, limit)
        self.seconds = self._clock() - began
        return tree


def measure_steps(
    target: Target, text: Sequence[int], masks: Sequence[SkipMask], repeats: int
) -> list[float]:
    """Seconds of one draft step under each mask, relative to a plain step of the same repeat."""
    found: list[list[float]] = [[] for _ in masks]
    for repeat in range(repeats + 1):
        for i in range(0, len(masks), 5):
            group = masks[i : i + 5]
            steps = _time_group(target, text, group, flip=bool(repeat % 2))
            for j, step in enumerate(steps):
                if repeat:
                    found[i + j].append(step)
    return [median(each) for each in found]


def _time_group(
    target: Target, text: Sequence[int], masks: Sequence[SkipMask], flip: bool
) -> list[float]:
    lengths = (LONG, SHORT) if flip else (SHORT, LONG)
    turns: list[tuple[SkipMask, int] | None] = [None]
    for mask in masks:
        turns += [(mask, length) for length in lengths]
        turns += [None]
    most = sum(1 + (turn[1] if turn else 0) for turn in turns)
    turner = Turns(target, turns)
    engine = Engine(target, len(text) + most + LONG + 1)
    limits = Limits(most, target.context_limit)
    rounds = decode(engine, text, turner, SamplingOptions(), limits)
    clock = target.runtime.clock_without_capture(time.perf_counter)
    draft: dict[tuple[int, int], float] = {}
    plain = []
    next(rounds)
    for turn in turns[1:]:
        began = clock()
        with target.runtime.capture_immediately():
            next(rounds)
        if turn is None:
            plain.append(clock() - began)
        else:
            draft[masks.index(turn[0]), turn[1]] = turner.seconds
    span = LONG - SHORT
    return [(draft[i, LONG] - draft[i, SHORT]) / span / median(plain) for i in range(len(masks))]


if __name__ == "__main__":
    main()
