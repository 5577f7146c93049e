"""Predicted against measured speedup, for masks of mixed quality.

    python -m benchmarks.prediction_accuracy --threads 2

The masks come from a search, from its start to its best. Each gets the (γ, τ) for which its trace
predicts the highest speedup. Then all of them and plain decoding decode the same prompts, paired
and interleaved. Two predictions are compared with the measurement:

- *same prompts*: from traces of the texts that are decoded. Its error comes from costs and replay.
- *calibration*: from traces of other texts, as in a search. Its error includes that of the sample.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import skipopt
from benchmarks.result_files import environment_lines, write_results
from benchmarks.workloads import workload_of
from skipopt.bench.cost_measurement import measure_costs
from skipopt.bench.metrics import (
    acceptance_rate,
    paired_log_ratios,
    samples_of,
    speedup,
    tokens_per_second,
)
from skipopt.bench.provenance import environment_of
from skipopt.bench.runners import PLAIN, SkipoptRunner
from skipopt.bench.timing import Timer, device_clock
from skipopt.bench.workload import Workload
from skipopt.cost_model.costs import Costs
from skipopt.cost_model.replay import best_prediction
from skipopt.masks import MaskSpace, SkipMask
from skipopt.methods import MethodSpec
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.prompts import load_prompts
from skipopt.samplers.registry import make_sampler
from skipopt.scoring import ScoredText, Scorer

MAX_DRAFTED = 8
BATCH = 8
TRIALS_PER_MASK = 12  # of the search that the masks are chosen from
MIN_PREDICTION = 0.8  # of a chosen mask


@dataclass(frozen=True, slots=True)
class Speedups:
    """Two statistics over texts: total plain ÷ total speculative time, and the median ratio."""

    total: float
    median: float


@dataclass(frozen=True, slots=True)
class Predicted:
    """A mask with the (γ, τ) chosen for it, and its two predictions."""

    mask: SkipMask
    gamma: int
    tau: float
    calibration: Speedups
    same_prompts: Speedups
    acceptance_rate: float | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "mask": str(self.mask), "skipped": len(self.mask.skipped)}


@dataclass(frozen=True, slots=True)
class Measured:
    """What real decoding gave; `low` and `high` are the interval of the median."""

    total: float
    median: float
    low: float
    high: float
    per_prompt: tuple[float, ...]
    acceptance_rate: float | None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well predictions meet measurements: errors and bias are relative."""

    median_error: float
    bias: float
    rank_correlation: float


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model)
    prompts = load_prompts()
    calibration = workload_of(target, prompts.calibration, given.tokens)
    held_out = workload_of(target, prompts.held_out[: given.prompts], given.tokens)
    texts = texts_of(calibration)
    context = sorted((t.tokens for t in texts), key=len)[len(texts) // 2]
    costs = measure_costs(target, context, MAX_DRAFTED + 1, seconds=10.0)
    masks = mixed_masks(target, texts[:12], costs, given.masks)
    predicted = predict(target, masks, texts, texts_of(held_out), costs)
    measured = measure(target, predicted, held_out)
    report(given, target, costs, predicted, measured, held_out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--masks", type=int, default=30)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--output", type=Path, default=Path("results/prediction-accuracy"))
    return parser.parse_args()


def texts_of(load: Workload) -> list[ScoredText]:
    pairs = zip(load.prompts, load.references, strict=True)
    return [ScoredText((*prompt, *reference), len(prompt)) for prompt, reference in pairs]


def mixed_masks(
    target: Target, texts: Sequence[ScoredText], costs: Costs, count: int
) -> list[SkipMask]:
    """Masks of a short search whose predictions are spread evenly from 0.8 to the best."""
    values = search_values(target, texts, costs, TRIALS_PER_MASK * count)
    ranked = sorted(
        (m for m in values if m.skipped and values[m] > MIN_PREDICTION), key=values.__getitem__
    )
    low, high = values[ranked[0]], values[ranked[-1]]
    wanted = [low + (high - low) * i / (count - 1) for i in range(count)]
    chosen: list[SkipMask] = []
    for value in wanted:
        free = [mask for mask in ranked if mask not in chosen]
        chosen.append(min(free, key=lambda mask: abs(values[mask] - value)))
    return chosen


def search_values(
    target: Target, texts: Sequence[ScoredText], costs: Costs, trials: int
) -> dict[SkipMask, float]:
    """Predicted speedups of the masks that a local search visits."""
    scorer = Scorer(target, texts)
    sampler = make_sampler("local-search", MaskSpace(target.depth), 0)
    values: dict[SkipMask, float] = {}
    while len(values) < trials:
        masks = sampler.ask(BATCH)
        for mask, trace in zip(masks, scorer.score(masks), strict=True):
            values[mask] = best_prediction(trace, mask, costs).speedup
            sampler.tell(mask, values[mask])
    return values


def predict(
    target: Target,
    masks: Sequence[SkipMask],
    calibration: Sequence[ScoredText],
    held_out: Sequence[ScoredText],
    costs: Costs,
) -> list[Predicted]:
    """Both predictions of each mask, at the γ and τ that are best on the calibration texts."""
    found = []
    before = Scorer(target, calibration, MAX_DRAFTED)
    here = Scorer(target, held_out, MAX_DRAFTED)
    for mask in masks:
        chosen = best_prediction(before.score([mask])[0], mask, costs)
        same = best_prediction(here.score([mask])[0], mask, costs, chosen.gamma, [chosen.tau])
        found.append(
            Predicted(
                mask,
                chosen.gamma,
                chosen.tau,
                Speedups(chosen.speedup, chosen.median_speedup),
                Speedups(same.speedup, same.median_speedup),
                same.acceptance_rate,
            )
        )
    return found


def measure(target: Target, predicted: Sequence[Predicted], load: Workload) -> list[Measured]:
    """Decode the prompts plainly and with every mask."""
    plain = SkipoptRunner(target, MethodSpec(PLAIN))
    runners = [runner_of(target, i, each) for i, each in enumerate(predicted)]
    timer = Timer([plain, *runners], load.prompts, load.lengths, device_clock(target.device))
    timer.warm_up()
    timer.run(1)
    return [measured_speedup(timer, runner.name) for runner in runners]


def runner_of(target: Target, index: int, predicted: Predicted) -> SkipoptRunner:
    profile = Profile.build(target, predicted.mask, gamma=predicted.gamma, tau=predicted.tau)
    return SkipoptRunner(target, MethodSpec("layer-skip"), profile, name=f"mask-{index}")


def measured_speedup(timer: Timer, name: str) -> Measured:
    own = samples_of(timer.samples, name)
    plain = tokens_per_second(samples_of(timer.samples, PLAIN))
    ratios = [median(repeats) for repeats in paired_log_ratios(timer.samples, name, PLAIN)]
    interval = speedup(timer.samples, name, PLAIN)
    return Measured(
        tokens_per_second(own) / plain,
        interval.median,
        interval.low,
        interval.high,
        tuple(math.exp(ratio) for ratio in ratios),
        acceptance_rate(own),
    )


def accuracies(
    predicted: Sequence[Predicted], measured: Sequence[Measured]
) -> Iterator[tuple[str, Accuracy]]:
    """For each prediction and statistic."""
    for source in ("same_prompts", "calibration"):
        for statistic in ("total", "median"):
            before = [getattr(getattr(each, source), statistic) for each in predicted]
            after = [getattr(each, statistic) for each in measured]
            yield f"{source}, {statistic}", accuracy(before, after)


def accuracy(predicted: Sequence[float], measured: Sequence[float]) -> Accuracy:
    from scipy.stats import spearmanr

    errors = [p / m - 1 for p, m in zip(predicted, measured, strict=True)]
    correlation = float(spearmanr(predicted, measured).statistic)
    return Accuracy(median(map(abs, errors)), median(errors), correlation)


def report(
    given: argparse.Namespace,
    target: Target,
    costs: Costs,
    predicted: Sequence[Predicted],
    measured: Sequence[Measured],
    load: Workload,
) -> None:
    environment, found = environment_of(target), dict(accuracies(predicted, measured))
    pairs = zip(predicted, measured, strict=True)
    record = {
        "environment": environment,
        "costs": asdict(costs),
        "workload": load.to_json(),
        "figures": {name: asdict(each) for name, each in found.items()},
        "masks": [{**before.to_json(), "measured": asdict(after)} for before, after in pairs],
    }
    lines = [
        "# Predicted against measured speedup\n",
        f"`python -m benchmarks.prediction_accuracy {given.model} --threads {given.threads} "
        f"--masks {given.masks} --prompts {given.prompts}`\n",
        *environment_lines(environment),
        f"\n{len(predicted)} masks, {len(load.prompts)} held-out prompts.\n",
        "| prediction, statistic | median error | bias | rank correlation |\n|---|---|---|---|",
        *(
            f"| {name} | {each.median_error:.1%} | {each.bias:+.1%} "
            f"| {each.rank_correlation:.3f} |"
            for name, each in found.items()
        ),
    ]
    write_results(given.output, record, lines)


if __name__ == "__main__":
    main()
