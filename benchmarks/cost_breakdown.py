"""The accounts of a profile: what a draft step costs (c), what a verification (v).

    python -m benchmarks.cost_breakdown configs/builtin.yaml > results/cost-breakdown.md

All costs are relative to one plain step, medians of interleaved runs after a prompt of the
built-in calibration set. Speeds themselves come from `skipopt bench`.
"""

from __future__ import annotations

import argparse

import torch

import skipopt
from benchmarks.result_files import environment_lines
from skipopt.bench.cost_measurement import measure_costs
from skipopt.bench.provenance import environment_of
from skipopt.masks import SkipMask
from skipopt.prompts import load_prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15.0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    profile = skipopt.Profile.load(given.profile)
    target = skipopt.load(profile.model.id)
    context = target.tokenizer(load_prompts().calibration[0].text)["input_ids"]
    costs = measure_costs(target, context, 9, seconds=given.seconds)
    print("# What the speedup is made of\n")
    print(f"`python -m benchmarks.cost_breakdown {given.profile} --threads {given.threads}`\n")
    print(*environment_lines(environment_of(target)), sep="\n")
    print(f"\nOne plain step: {costs.plain * 1e3:.2f} ms with {len(context)} tokens of context.\n")
    print("| relative to one plain step | |\n|---|---|")
    parts = {
        "fixed (embedding, head, choice, host)": costs.overhead,
        "one attention sublayer": costs.attention,
        "one MLP sublayer": costs.mlp,
        "one layer beyond its sublayers": costs.layer_overhead,
    }
    for name, seconds in parts.items():
        print(f"| {name} | {seconds / costs.plain:.4f} |")
    for n, seconds in enumerate(costs.verify, start=1):
        print(f"| v({n}) | {seconds / costs.plain:.2f} |")
    law(profile, costs.draft_step(profile.skip_mask) / costs.plain)


def law(profile: skipopt.Profile, cost: float) -> None:
    mask: SkipMask = profile.skip_mask
    print(f"\nMask: `{mask}`, {len(mask.skipped)} of {2 * mask.layers} sublayers skipped.")
    print(f"γ = {profile.drafting.gamma}, τ = {profile.drafting.tau}; draft cost c = {cost:.3f}.")
    if profile.predicted is not None and profile.measured is not None:
        measured = profile.measured
        print(f"Matchness {profile.predicted.matchness}, acceptance {measured.acceptance_rate}, ")
        print(f"block efficiency {measured.mean_acceptance_length}.")
        print(f"Predicted speedup {profile.predicted.speedup}; confirmed on calibration prompts")
        span = measured.speedup
        print(f"{span.median} ({span.low} to {span.high}).")


if __name__ == "__main__":
    main()
