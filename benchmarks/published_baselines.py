"""What the published procedures find, held against what `skipopt search` finds, on one runtime.

    python -m benchmarks.published_baselines --profile profile.yaml --threads 2

Each procedure is reimplemented from its paper, searches on the calibration prompts with its
published settings, and its final mask then decodes the held-out prompts with its published way of
drafting, all of them paired and interleaved with plain decoding, in skipopt's engine:

- SWIFT (arXiv 2410.06916): on the fly over the calibration prompts, skip ratio 0.45, matchness
  over 50 tokens, every 25th candidate by Bayesian optimisation; drafts are confidence-aware
  trees of up to 25 levels, τ = 0.8. Its search may take all the time it wants, up to --seconds.
- Draft & Verify (arXiv 2309.08168): Bayesian optimisation of real tokens/s over [0, 1]^2L on eight
  prompts with 32 tokens, 1,000 evaluations there and as many as --seconds allow here; chains of up
  to 12 with the adaptive threshold from 0.6.
- CLaSp (arXiv 2505.24196): dynamic program over whole layers by cosine, half of them skipped;
  chains of up to 10 that end below 0.7. There the program runs again after every round; here once.
- KnapSpec (arXiv 2602.20217): the program over attention and MLP by their prices, half of the
  weight at most, first and last layer kept, the budget by its formula of tokens per time; chains
  of up to 10 that end below 0.7.

A search's seconds are its own, without loading the model.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import skipopt
from benchmarks.result_files import environment_lines, write_record
from skipopt.bench.cost_measurement import measure_costs
from skipopt.bench.lossless import ComparedText, check_texts
from skipopt.bench.metrics import (
    acceptance_rate,
    mean_acceptance_length,
    paired_log_ratios,
    samples_of,
    speedup,
    tokens_per_second,
)
from skipopt.bench.provenance import environment_of
from skipopt.bench.runners import PLAIN, SkipoptRunner
from skipopt.bench.timing import Timer, device_clock
from skipopt.bench.workload import Workload, make_workload
from skipopt.decoding.api import generate
from skipopt.decoding.loop import check_request, decode, new_engine
from skipopt.drafting.swift import SwiftDrafter
from skipopt.masks import MaskSpace, SkipMask
from skipopt.methods import parse_method
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.prompts import load_prompts
from skipopt.samplers.layer_dp import cost_weights, pareto_front, whole_layer_weights
from skipopt.sampling import SamplingOptions
from skipopt.scoring import ScoredText, Scorer
from skipopt.stats import ratio_interval

SWIFT_METHOD = "swift:tune_mask=no:auto_disable=no:cost_aware=no"
DV_METHOD = "layer-skip:adaptive_tau=yes"


@dataclass(frozen=True, slots=True)
class Found:
    """What a procedure came to: a mask and how it drafts."""

    name: str
    mask: SkipMask
    method: str
    gamma: int
    tau: float
    seconds: float
    note: str


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model)
    prompts = load_prompts()
    calibration = [target.tokenizer(p.text)["input_ids"] for p in prompts.calibration]
    procedures: list[Callable[[], Found]] = [
        lambda: swift(target, calibration, given.seconds),
        lambda: draft_and_verify(target, calibration[:8], given.seconds),
        lambda: clasp(target, calibration),
        lambda: knapspec(target, calibration),
    ]
    found = [*(procedure() for procedure in procedures), *ours(given.profile, target)]
    for each in found:
        print(each)
    workload = held_out(target, given.tokens)
    timer = measure(target, found, workload, given.repeats)
    report(given, target, found, workload, timer)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--profile", default="configs/builtin.yaml")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("results/published-baselines"))
    return parser.parse_args()


def swift(target: Target, prompts: Sequence[Sequence[int]], seconds: float) -> Found:
    """Decodes prompt after prompt while it searches, until its own rules or the time end it."""
    began, online_state = time.perf_counter(), None
    options = SamplingOptions()
    while time.perf_counter() - began < seconds:
        for prompt in prompts:
            drafter = SwiftDrafter(
                target,
                None,
                online_state,
                cost_aware=False,
                auto_disable=False,
                search_overhead=0.9,
            )
            online_state = drafter.online_state
            limits = check_request(target, prompt, 128)
            engine = new_engine(target, prompt, limits, drafter.max_extra_rows)
            for _ in decode(engine, prompt, drafter, options, limits):
                pass
            if online_state.search.done or time.perf_counter() - began > seconds:
                break
        if online_state.search.done:
            break
    search = online_state.search
    note = f"{search.trials} candidates, matchness {search.score:.2f}"
    took = time.perf_counter() - began
    return Found("SWIFT", search.mask, SWIFT_METHOD, 25, 0.8, took, note)


def draft_and_verify(target: Target, prompts: Sequence[Sequence[int]], seconds: float) -> Found:
    """Real tokens per second, prefill included, as its code has it."""
    from skopt import Optimizer

    began, count = time.perf_counter(), 2 * target.depth
    optimizer = Optimizer(
        [(0.0, 1.0)] * count, "GP", n_initial_points=2, acq_func="LCB",
        acq_func_kwargs={"kappa": 2.576}, random_state=1,
    )  # fmt: skip
    every_other = [float(i // 2 % 2) for i in range(count)]
    starts = [every_other, [float(i % 2) for i in range(count)]]
    speeds: dict[tuple[bool, ...], float] = {}
    while time.perf_counter() - began < seconds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            point = starts.pop() if starts else optimizer.ask()
            bits = tuple(x > 0.5 for x in point)
            speeds[bits] = real_speed(target, SkipMask.from_bits(list(bits)), prompts)
            optimizer.tell(point, -speeds[bits])
    mask = SkipMask.from_bits(list(max(speeds, key=speeds.__getitem__)))
    note = f"{len(speeds)} of 1,000 evaluations"
    took = time.perf_counter() - began
    return Found("Draft & Verify", mask, DV_METHOD, 12, 0.6, took, note)


def real_speed(target: Target, mask: SkipMask, prompts: Sequence[Sequence[int]]) -> float:
    profile = Profile.build(target, mask, method=DV_METHOD, gamma=8, tau=0.8)
    began = time.perf_counter()
    for prompt in prompts:
        for _ in generate(target, prompt, profile=profile, max_new_tokens=32):
            pass
    return 32 * len(prompts) / (time.perf_counter() - began)


def clasp(target: Target, prompts: Sequence[Sequence[int]]) -> Found:
    began = time.perf_counter()
    streams = pareto_front(
        few_positions(target, prompts), MaskSpace(target.depth), whole_layer_weights()
    )
    half = min(streams, key=lambda s: abs(len(s.mask.skipped) - target.depth))
    took = time.perf_counter() - began
    return Found("CLaSp", half.mask, "layer-skip", 10, 0.7, took, "one program, half the layers")


def knapspec(target: Target, prompts: Sequence[Sequence[int]]) -> Found:
    """Tokens per time of every budget up to half of the weight, at the best γ ≤ 10."""
    began, depth = time.perf_counter(), target.depth
    scorer = few_positions(target, prompts)
    costs = measure_costs(target, prompts[0], 9, seconds=2.0)
    ends = frozenset({0, 1, 2 * depth - 2, 2 * depth - 1})
    weights = cost_weights(costs)
    streams = pareto_front(scorer, MaskSpace(depth, ends), weights)
    whole = depth * (costs.attention + costs.mlp)
    best, worth = streams[0].mask, -1.0
    for stream, trace in zip(streams, scorer.read_out([s.state for s in streams]), strict=True):
        mask = stream.mask
        skipped = len(mask.attention) * costs.attention + len(mask.mlp) * costs.mlp
        if skipped > whole / 2:
            continue
        alpha = min(trace.matchness, 0.999)
        for gamma in range(1, 11):
            tokens = (1 - alpha ** (gamma + 1)) / (1 - alpha)
            rate = tokens / (gamma * (whole - skipped) + whole)
            if rate > worth:
                best, worth = mask, rate
    took = time.perf_counter() - began
    return Found("KnapSpec", best, "layer-skip", 10, 0.7, took, "one program")


def few_positions(target: Target, prompts: Sequence[Sequence[int]]) -> Scorer:
    """The first eight prompts, 16 tokens each."""
    texts = []
    for prompt in prompts[:8]:
        written = [token.id for token in generate(target, prompt, max_new_tokens=16)]
        texts.append(ScoredText((*prompt, *written), len(prompt)))
    return Scorer(target, texts)


def ours(path: str, target: Target) -> list[Found]:
    """The profile as it is, and its mask in a chain where it drafts otherwise."""
    profile = Profile.load(path)
    seconds = profile.search.seconds if profile.search else 0.0
    gamma, tau = profile.drafting.gamma, profile.drafting.tau
    method, note = profile.drafting.method, f"`{profile.search.sampler}`, {profile.search.trials}"
    found = [Found("skipopt", profile.skip_mask, method, gamma, tau, seconds, f"{note} trials")]
    if method != "layer-skip":
        chain = "the same search, its mask in a chain"
        mask = profile.skip_mask
        found.append(Found("skipopt, layer-skip", mask, "layer-skip", gamma, tau, seconds, chain))
    return found


def held_out(target: Target, tokens: int) -> Workload:
    ids = [target.tokenizer(prompt.text)["input_ids"] for prompt in load_prompts().held_out]
    return make_workload(
        ids, lambda p: [token.id for token in generate(target, p, max_new_tokens=tokens)]
    )


class Named:
    """A procedure's mask as a contender under the procedure's name."""

    may_fail = False
    guarantee = "same tokens"

    def __init__(self, target: Target, found: Found) -> None:
        profile = Profile.build(
            target, found.mask, method=found.method, gamma=found.gamma, tau=found.tau
        )
        own = SkipoptRunner(target, parse_method(found.method), profile)
        self.name, self.settings = found.name, own.settings
        self.warm_up, self.decode = own.warm_up, own.decode


def measure(target: Target, found: Sequence[Found], load: Workload, repeats: int) -> Timer:
    contenders: list[Any] = [
        SkipoptRunner(target, parse_method(PLAIN)),
        *(Named(target, f) for f in found),
    ]
    timer = Timer(contenders, load.prompts, load.lengths, device_clock(target.device))
    timer.warm_up()
    for _ in range(repeats):
        timer.run(1)
    return timer


def report(
    given: argparse.Namespace,
    target: Target,
    found: Sequence[Found],
    load: Workload,
    timer: Timer,
) -> None:
    rows = [row_of(target, each, load, timer) for each in found]
    published = [row for row in rows if not row["name"].startswith("skipopt")]
    best = max(published, key=lambda row: row["tokens_per_second"])
    own = rows[len(published)]
    ratio = ratio_interval(paired_log_ratios(timer.samples, own["name"], best["name"]))
    totals = own["tokens_per_second"] / best["tokens_per_second"]
    environment = environment_of(target)
    plain = tokens_per_second(samples_of(timer.samples, PLAIN))
    record = {
        "environment": environment,
        "workload": load.to_json(),
        "rows": rows,
        "against_best": {"name": best["name"], "total": totals, **ratio.to_json()},
    }
    lines = [
        "# Against the published procedures\n",
        f"`python -m benchmarks.published_baselines {given.model} --profile {given.profile} "
        f"--threads {given.threads} --seconds {given.seconds:g} --repeats {given.repeats}`\n",
        *environment_lines(environment),
        f"\n{len(load.prompts)} held-out prompts, up to {given.tokens} tokens each, "
        f"{given.repeats} repeats; plain decoding {plain:.1f} tokens/s.\n",
        "| procedure | search | skipped | drafts | tokens/s | speedup | acceptance "
        "| tokens per target forward | text |",
        "|---|---|---|---|---|---|---|---|---|",
        *(line_of(row) for row in rows),
        f"\nskipopt against {best['name']}, the best of the published: {totals:.2f} in total "
        f"tokens/s; median over prompts {ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f}).",
    ]
    write_record(given.output, record, lines)
    print("\n".join(lines))


def row_of(target: Target, found: Found, load: Workload, timer: Timer) -> dict[str, Any]:
    own = samples_of(timer.samples, found.name)
    texts = (
        ComparedText(load.prompts[s.prompt], load.references[s.prompt], s.decoding.tokens)
        for s in own
    )
    return {
        "name": found.name,
        "mask": str(found.mask),
        "skipped": f"{len(found.mask.skipped)} of {2 * found.mask.layers}",
        "method": found.method,
        "gamma": found.gamma,
        "tau": found.tau,
        "search_seconds": found.seconds,
        "note": found.note,
        "tokens_per_second": tokens_per_second(own),
        "speedup": speedup(timer.samples, found.name, PLAIN).to_json(),
        "acceptance_rate": acceptance_rate(own),
        "mean_acceptance_length": mean_acceptance_length(own),
        "lossless": check_texts(target, texts).verdict,
    }


def line_of(row: dict[str, Any]) -> str:
    span = row["speedup"]
    return (
        f"| {row['name']} | {row['search_seconds']:.0f} s: {row['note']} | {row['skipped']} "
        f"| {row['method']}, γ = {row['gamma']}, τ = {row['tau']:g} "
        f"| {row['tokens_per_second']:.1f} "
        f"| {span['median']:.2f}× ({span['low']:.2f}–{span['high']:.2f}) "
        f"| {np.nan if row['acceptance_rate'] is None else row['acceptance_rate']:.2f} "
        f"| {row['mean_acceptance_length']:.2f} | {row['lossless']} |"
    )


if __name__ == "__main__":
    main()
