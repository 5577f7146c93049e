"""Is what a search predicts true? Predicted against measured speedup of masks good and bad.

    python -m benchmarks.prediction_accuracy --threads 2 --output results/prediction-accuracy

Masks of mixed quality: along the way of a search from its start to its best. Each is given the
(γ, τ) that its trace promises most for. Then all of them decode the same prompts as plain
decoding does, paired and interleaved. Two predictions are held against what is measured:

- *same prompts*: from traces of the very texts that are decoded. Any error is that of prices
  and replay.
- *calibration*: from traces of other texts, as in a search. Texts differ, too.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

import skipopt
from benchmarks.result_files import environment_lines, write_record
from skipopt.bench.cost_measurement import measure_costs
from skipopt.bench.metrics import paired_log_ratios, samples_of, speedup, tokens_per_second
from skipopt.bench.provenance import environment_of
from skipopt.bench.runners import PLAIN, SkipoptRunner
from skipopt.bench.timing import Timer, device_clock
from skipopt.bench.workload import Workload, make_workload
from skipopt.cost_model.costs import Costs
from skipopt.cost_model.replay import TAUS, best_prediction
from skipopt.decoding.api import generate
from skipopt.masks import MaskSpace, SkipMask
from skipopt.methods import MethodSpec
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.prompts import load_prompts
from skipopt.samplers.registry import make_sampler
from skipopt.scoring import ScoredText, Scorer

LONGEST = 8


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model)
    prompts = load_prompts()
    calibration = workload(target, prompts.calibration, given.tokens)
    held_out = workload(target, prompts.held_out[: given.prompts], given.tokens)
    texts = texts_of(calibration)
    context = sorted((t.tokens for t in texts), key=len)[len(texts) // 2]
    costs = measure_costs(target, context, LONGEST + 1, seconds=10.0)
    masks = mixed_masks(target, texts[:12], costs, given.masks)
    found = predict(target, masks, texts, texts_of(held_out), costs)
    measure(target, found, held_out)
    report(given, target, costs, found, held_out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--masks", type=int, default=30)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--output", type=Path, default=Path("results/prediction-accuracy"))
    return parser.parse_args()


def workload(target: Target, prompts: Sequence[Any], tokens: int) -> Workload:
    ids = [target.tokenizer(prompt.text)["input_ids"] for prompt in prompts]
    return make_workload(
        ids, lambda p: [token.id for token in generate(target, p, max_new_tokens=tokens)]
    )


def texts_of(load: Workload) -> list[ScoredText]:
    pairs = zip(load.prompts, load.references, strict=True)
    return [ScoredText((*prompt, *reference), len(prompt)) for prompt, reference in pairs]


def mixed_masks(
    target: Target, texts: Sequence[ScoredText], costs: Costs, count: int
) -> list[SkipMask]:
    """From a short search, spread evenly over the values that it met from 0.8 up."""
    scorer = Scorer(target, texts)
    sampler = make_sampler("local-search", MaskSpace(target.depth), 0)
    values: dict[SkipMask, float] = {}
    while len(values) < 12 * count:
        masks = sampler.ask(8)
        for mask, trace in zip(masks, scorer.score(masks), strict=True):
            values[mask] = best_prediction(trace, mask, costs).speedup
            sampler.tell(mask, values[mask])
    ranked = sorted((m for m in values if m.skipped and values[m] > 0.8), key=values.__getitem__)
    low, high = values[ranked[0]], values[ranked[-1]]
    wanted = [low + (high - low) * i / (count - 1) for i in range(count)]
    chosen: list[SkipMask] = []
    for value in wanted:
        free = [m for m in ranked if m not in chosen]
        chosen.append(min(free, key=lambda m: abs(values[m] - value)))
    return chosen


def predict(
    target: Target,
    masks: Sequence[SkipMask],
    calibration: Sequence[ScoredText],
    held_out: Sequence[ScoredText],
    costs: Costs,
) -> list[dict[str, Any]]:
    found = []
    before, here = Scorer(target, calibration, LONGEST), Scorer(target, held_out, LONGEST)
    for mask in masks:
        chosen = best_prediction(before.score([mask])[0], mask, costs)
        same = best_prediction(here.score([mask])[0], mask, costs, chosen.gamma, [chosen.tau])
        assert chosen.tau in TAUS
        found.append(
            {
                "mask": str(mask),
                "skipped": len(mask.skipped),
                "gamma": chosen.gamma,
                "tau": chosen.tau,
                "calibration": {"total": chosen.speedup, "median": chosen.median_speedup},
                "same_prompts": {"total": same.speedup, "median": same.median_speedup},
                "acceptance_rate": same.acceptance_rate,
            }
        )
    return found


def measure(target: Target, found: list[dict[str, Any]], load: Workload) -> None:
    plain = SkipoptRunner(target, MethodSpec(PLAIN))
    contenders = [_Named(target, i, row) for i, row in enumerate(found)]
    timer = Timer([plain, *contenders], load.prompts, load.lengths, device_clock(target.device))
    timer.warm_up()
    timer.run(1)
    pace = tokens_per_second(samples_of(timer.samples, PLAIN))
    for contender, row in zip(contenders, found, strict=True):
        own = samples_of(timer.samples, contender.name)
        ratios = [median(r) for r in paired_log_ratios(timer.samples, contender.name, PLAIN)]
        drafted = sum(s.decoding.statistics.drafted for s in own)
        accepted = sum(s.decoding.statistics.accepted for s in own)
        row["measured"] = {
            "total": tokens_per_second(own) / pace,
            **speedup(timer.samples, contender.name, PLAIN).to_json(),
            "per_prompt": [math.exp(ratio) for ratio in ratios],
            "acceptance_rate": accepted / drafted if drafted else None,
        }


class _Named:
    """A mask as a contender with a name of its own."""

    may_fail = False
    guarantee = "same tokens"

    def __init__(self, target: Target, index: int, row: dict[str, Any]) -> None:
        mask = SkipMask.parse(row["mask"], target.depth)
        profile = Profile.build(target, mask, gamma=row["gamma"], tau=row["tau"])
        own = SkipoptRunner(target, MethodSpec("layer-skip"), profile)
        self.name = f"mask-{index}"
        self.settings = own.settings
        self.warm_up, self.decode = own.warm_up, own.decode


def report(
    given: argparse.Namespace,
    target: Target,
    costs: Costs,
    found: list[dict[str, Any]],
    load: Workload,
) -> None:
    from scipy.stats import spearmanr

    figures: dict[str, dict[str, float]] = {}
    for source in ("same_prompts", "calibration"):
        for kind in ("total", "median"):
            predicted = [row[source][kind] for row in found]
            measured = [row["measured"][kind] for row in found]
            errors = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
            bias = median(p / m - 1 for p, m in zip(predicted, measured, strict=True))
            figures[f"{source}, {kind}"] = {
                "median_error": median(errors),
                "bias": bias,
                "rank_correlation": float(spearmanr(predicted, measured).statistic),
            }
    environment = environment_of(target)
    data = {
        "environment": environment,
        "prices": {name: getattr(costs, name) for name in costs.__slots__},
        "workload": load.to_json(),
        "figures": figures,
        "masks": found,
    }
    lines = [
        "# Predicted against measured speedup\n",
        f"`python -m benchmarks.prediction_accuracy {given.model} --threads {given.threads} "
        f"--masks {given.masks} --prompts {given.prompts}`\n",
        *environment_lines(environment),
        f"\n{len(found)} masks, {len(load.prompts)} held-out prompts.\n",
        "| prediction, statistic | median error | bias | rank correlation |\n|---|---|---|---|",
        *(
            f"| {name} | {f['median_error']:.1%} | {f['bias']:+.1%} "
            f"| {f['rank_correlation']:.3f} |"
            for name, f in figures.items()
        ),
    ]
    write_record(given.output, data, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
