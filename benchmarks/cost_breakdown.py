"""What the speedup of a profile is made of: draft cost c, verification cost v(n), acceptance.

    python -m benchmarks.cost_breakdown builtin > results/cost-breakdown.md

Costs are relative to one plain step, and are measured after a built-in calibration prompt.
Speedups are those of the profile; `skipopt bench` measures them.
"""

from __future__ import annotations

import argparse

import torch

import skipopt
from benchmarks.result_files import environment_lines
from skipopt.cost_model.costs import Costs
from skipopt.measurement.cost_measurement import measure_costs
from skipopt.measurement.provenance import environment_of
from skipopt.prompts import load_prompts

MAX_VERIFIED = 9


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    profile = skipopt.Profile.load(given.profile)
    target = skipopt.load(profile.model.id)
    context = target.tokenizer(load_prompts().calibration[0].text)["input_ids"]
    costs = measure_costs(target, context, MAX_VERIFIED, seconds=given.seconds)
    print("# Cost breakdown of a profile\n")
    print(f"`python -m benchmarks.cost_breakdown {given.profile} --threads {given.threads}`\n")
    print(*environment_lines(environment_of(target)), sep="\n")
    print_costs(costs)
    print_profile(profile, costs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15.0, help="of measuring")
    return parser.parse_args()


def print_costs(costs: Costs) -> None:
    """A table of all costs in plain steps."""
    plain = costs.plain
    print(f"\nOne plain step: {plain * 1e3:.2f} ms with {costs.context} tokens of context.\n")
    print("| relative to one plain step | |\n|---|---|")
    parts = {
        "overhead (embedding, head, token choice, host)": costs.overhead,
        "one attention sublayer": costs.attention,
        "one MLP sublayer": costs.mlp,
        "one layer without its sublayers": costs.layer_overhead,
    }
    for name, seconds in parts.items():
        print(f"| {name} | {seconds / plain:.4f} |")
    for n, seconds in enumerate(costs.verify, start=1):
        print(f"| v({n}) | {seconds / plain:.2f} |")


def print_profile(profile: skipopt.Profile, costs: Costs) -> None:
    """Mask, draft cost, acceptance and speedup of the profile."""
    drafting = profile.draft_settings[0]
    mask = drafting.mask
    cost = costs.draft_step(mask, drafting.tau) / costs.plain
    print(f"\nMask: `{mask}`, {len(mask.skipped)} of {2 * mask.layers} sublayers skipped.")
    print(f"γ = {drafting.gamma}, τ = {drafting.tau}; draft cost c = {cost:.3f}.")
    if profile.predicted is not None and profile.measured is not None:
        measured, speedup = profile.measured, profile.measured.speedup
        print(f"Matchness {profile.predicted.matchness}, ", end="")
        print(f"acceptance rate {measured.acceptance_rate}, ")
        print(f"mean acceptance length {measured.mean_acceptance_length}.")
        print(f"Predicted speedup {profile.predicted.speedup}; measured on calibration prompts")
        print(f"{speedup.median} ({speedup.low} to {speedup.high}).")


if __name__ == "__main__":
    main()
