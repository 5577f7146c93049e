"""Masks scored per second: one by one, batched, and batched with shared prefixes.

    python -m benchmarks.scoring_speed [MODEL] --threads 2 > results/scoring-speed.md

All ways score the same masks, interleaved over several rounds; the table has medians and ranges.
There are three sets of 32 masks: one flip from a mask that skips half of the sublayers, one flip
from a profile's mask (as a local search asks for early and late), and random ones.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from random import Random

import torch

import skipopt
from benchmarks.result_files import environment_lines
from skipopt.masks import MaskSpace, SkipMask
from skipopt.measurement.provenance import environment_of
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.prompts import load_prompts
from skipopt.scoring import ScoredText, Scorer
from skipopt.study.calibration import calibrate

Way = Callable[[Sequence[SkipMask]], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--profile", default="builtin")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--positions", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model)
    scorer = limited_scorer(target, given.positions)
    print(f"# Masks scored per second at {scorer.positions} positions\n")
    print(f"`python -m benchmarks.scoring_speed {given.model} --threads {given.threads}`\n")
    print(*environment_lines(environment_of(target)), sep="\n")
    print("\n| masks | way | masks/s (median, range) |\n|---|---|---|")
    best = Profile.load(given.profile).skip_mask
    for name, masks in mask_sets(target, best).items():
        rates = time_ways(ways(scorer, target), masks, given.rounds)
        for way, samples in rates.items():
            low, high = min(samples), max(samples)
            print(f"| {name} | {way} | {statistics.median(samples):.0f} ({low:.0f}–{high:.0f}) |")


def limited_scorer(target: Target, positions: int) -> Scorer:
    """A scorer over calibration texts with `positions` positions in total."""
    prompts = [target.tokenizer(p.text)["input_ids"] for p in load_prompts().calibration[:12]]
    texts: list[ScoredText] = []
    for text in calibrate(target, prompts, 32, lambda: None).texts:
        left = positions - sum(len(t.continuation) for t in texts)
        if left > 0:
            texts.append(ScoredText(text.tokens[: text.scored_from + left], text.scored_from))
    return Scorer(target, texts)


def mask_sets(target: Target, best: SkipMask) -> dict[str, list[SkipMask]]:
    rng = Random(0)
    space = MaskSpace(target.depth)
    parent = space.mask(rng.sample(space.free, len(space.free) // 2))
    return {
        "one flip from half skipped": [parent.flip(i) for i in rng.sample(space.free, 32)],
        "one flip from the best": [best.flip(i) for i in rng.sample(space.free, 32)],
        "at random": [space.random(rng) for _ in range(32)],
    }


def ways(scorer: Scorer, target: Target) -> dict[str, Way]:
    """One by one, stacked without sharing, and with a trie of shared prefixes."""

    def one_by_one(masks: Sequence[SkipMask]) -> None:
        for mask in masks:
            scorer.score([mask])

    def trie(masks: Sequence[SkipMask]) -> None:
        for start in range(0, len(masks), 8):
            scorer.score(masks[start : start + 8])

    def wide_trie(masks: Sequence[SkipMask]) -> None:
        scorer.score(masks)

    def batched(masks: Sequence[SkipMask]) -> None:
        for start in range(0, len(masks), 8):
            without_prefixes(scorer, target, masks[start : start + 8])

    return {
        "one by one": one_by_one,
        "batched by 8": batched,
        "batched by 8, trie": trie,
        "batched by 32, trie": wide_trie,
    }


def without_prefixes(scorer: Scorer, target: Target, masks: Sequence[SkipMask]) -> None:
    """Stacked forwards in which every mask has a state of its own from the first layer on."""
    states = [scorer.embedded] * len(masks)
    for layer in target.layers:
        attention, mlp = 2 * layer.index, 2 * layer.index + 1
        skips = [(attention in m.skipped) + 2 * (mlp in m.skipped) for m in masks]
        states = scorer.advance(layer, states, list(enumerate(skips)))
    scorer.read_out(states)


def time_ways(
    all_ways: dict[str, Way], masks: Sequence[SkipMask], rounds: int
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in all_ways}
    for number in range(rounds + 1):
        for name, way in all_ways.items():
            began = time.perf_counter()
            way(masks)
            took = time.perf_counter() - began
            if number:  # the first round warms up
                rates[name].append(len(masks) / took)
    return rates


if __name__ == "__main__":
    main()
