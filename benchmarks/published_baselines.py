"""Published searches against `skipopt search`, on one runtime.

    python -m benchmarks.published_baselines --profile profile.yaml --threads 2

Each procedure (`benchmarks.published_procedures`) searches on the calibration prompts. Its mask
then decodes the held-out prompts with the published way of drafting in skipopt's engine, paired
and interleaved with plain decoding and with the profile. The time of a search excludes loading.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import skipopt
from benchmarks.published_procedures import CHAIN_METHOD, Procedure, run_procedures
from benchmarks.result_files import environment_lines, write_results
from benchmarks.workloads import encode, workload_of
from skipopt.bench.lossless import LosslessVerdict, check_texts
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
from skipopt.bench.workload import Workload
from skipopt.methods import parse_method
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.prompts import load_prompts
from skipopt.stats import Interval, ratio_interval

OURS = "skipopt"


@dataclass(frozen=True, slots=True)
class Row:
    """What the mask of a procedure gave on the held-out prompts."""

    procedure: Procedure
    tokens_per_second: float
    speedup: Interval
    acceptance_rate: float | None
    mean_acceptance_length: float | None
    lossless: LosslessVerdict

    def to_json(self) -> dict[str, Any]:
        mask = self.procedure.mask
        return {**asdict(self.procedure), "mask": str(mask)} | {
            "skipped": f"{len(mask.skipped)} of {2 * mask.layers}",
            "tokens_per_second": self.tokens_per_second,
            "speedup": self.speedup.to_json(),
            "acceptance_rate": self.acceptance_rate,
            "mean_acceptance_length": self.mean_acceptance_length,
            "lossless": self.lossless,
        }


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model)
    prompts = load_prompts()
    found: list[Procedure] = []
    for procedure in run_procedures(target, encode(target, prompts.calibration), given.seconds):
        print(procedure)
        found.append(procedure)
    own = own_results(Profile.load(given.profile))
    workload = workload_of(target, prompts.held_out, given.tokens)
    timer = measure(target, [*found, *own], workload, given.repeats)
    published = [row_of(target, each, workload, timer) for each in found]
    report(given, target, published, [row_of(target, o, workload, timer) for o in own], timer)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--profile", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=240.0, help="for each search")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("results/published-baselines"))
    return parser.parse_args()


def own_results(profile: Profile) -> list[Procedure]:
    """The profile, and its mask with chain drafts if it drafts otherwise."""
    search, method = profile.search, profile.drafting.method
    settings = profile.draft_settings[0]
    seconds = search.seconds if search else 0.0
    note = f"`{search.sampler}`, {search.trials} trials" if search else "by hand"
    mask, gamma, tau = settings.mask, settings.gamma, settings.tau
    found = [Procedure(OURS, mask, method, gamma, tau, seconds, note)]
    if method != CHAIN_METHOD:
        name, note = f"{OURS}, {CHAIN_METHOD}", "the same search, its mask with chain drafts"
        found.append(Procedure(name, mask, CHAIN_METHOD, gamma, tau, seconds, note))
    return found


def measure(target: Target, found: Sequence[Procedure], load: Workload, repeats: int) -> Timer:
    plain = SkipoptRunner(target, parse_method(PLAIN))
    runners = [plain, *(runner_of(target, each) for each in found)]
    timer = Timer(runners, load.prompts, load.lengths, device_clock(target.device))
    timer.warm_up()
    timer.run(repeats)
    return timer


def runner_of(target: Target, found: Procedure) -> SkipoptRunner:
    profile = Profile.build(
        target, found.mask, method=found.method, gamma=found.gamma, tau=found.tau
    )
    return SkipoptRunner(target, parse_method(found.method), profile, name=found.name)


def row_of(target: Target, found: Procedure, load: Workload, timer: Timer) -> Row:
    own = samples_of(timer.samples, found.name)
    return Row(
        found,
        tokens_per_second(own),
        speedup(timer.samples, found.name, PLAIN),
        acceptance_rate(own),
        mean_acceptance_length(own),
        check_texts(target, load.compared_texts(own)).verdict,
    )


def report(
    given: argparse.Namespace,
    target: Target,
    published: Sequence[Row],
    own: Sequence[Row],
    timer: Timer,
) -> None:
    best = max(published, key=lambda row: row.tokens_per_second)
    ratio = ratio_interval(paired_log_ratios(timer.samples, OURS, best.procedure.name))
    total = own[0].tokens_per_second / best.tokens_per_second
    environment, rows = environment_of(target), [*published, *own]
    record = {
        "environment": environment,
        "prompts": len(timer.prompts),
        "rows": [row.to_json() for row in rows],
        "against_best": {"name": best.procedure.name, "total": total, **ratio.to_json()},
    }
    plain = tokens_per_second(samples_of(timer.samples, PLAIN))
    lines = [
        "# Against the published procedures\n",
        f"`python -m benchmarks.published_baselines {given.model} --profile {given.profile} "
        f"--threads {given.threads} --seconds {given.seconds:g} --repeats {given.repeats}`\n",
        *environment_lines(environment),
        f"\n{len(timer.prompts)} held-out prompts, up to {given.tokens} tokens each, "
        f"{given.repeats} repeats; plain decoding {plain:.1f} tokens/s.\n",
        "| procedure | search | skipped | drafts | tokens/s | speedup | acceptance rate "
        "| tokens per target forward | text |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(line_of, rows),
        f"\nskipopt against {best.procedure.name}, the best published procedure: {total:.2f} in "
        f"total tokens/s; median over prompts {ratio.median:.2f} "
        f"({ratio.low:.2f}–{ratio.high:.2f}).",
    ]
    write_results(given.output, record, lines)


def line_of(row: Row) -> str:
    found, span = row.procedure, row.speedup
    cells = (
        found.name,
        f"{found.seconds:.0f} s: {found.note}",
        f"{len(found.mask.skipped)} of {2 * found.mask.layers}",
        f"{found.method}, γ = {found.gamma}, τ = {found.tau:g}",
        f"{row.tokens_per_second:.1f}",
        f"{span.median:.2f}× ({span.low:.2f}–{span.high:.2f})",
        "–" if row.acceptance_rate is None else f"{row.acceptance_rate:.2f}",
        f"{row.mean_acceptance_length:.2f}",
        row.lossless,
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
