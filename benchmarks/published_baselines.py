"""Published searches against `skipopt search`, on one runtime.

    python -m benchmarks.published_baselines MODEL --threads 2

Skipopt's own search runs first, with the time that each published search has; a profile found
before (`--profile`) takes its place. Each published procedure (`benchmarks.published_procedures`)
searches on the calibration prompts. Its mask then decodes held-out prompts with the published way
of drafting in skipopt's engine, paired and interleaved with plain decoding and with the profile.
The time of a search excludes loading. What a search found is written at once; with the same
`--output`, it is not searched again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import skipopt
from benchmarks.held_out import digits, held_out_workload, result_of, timed
from benchmarks.published_procedures import CHAIN_METHOD, PROCEDURES, Procedure
from benchmarks.result_files import (
    earlier_record,
    log,
    page_head,
    save_results,
    shown_path,
    write_results,
)
from benchmarks.workloads import encode
from skipopt.decoding.api import resolve_method
from skipopt.masks import SkipMask
from skipopt.measurement.metrics import (
    mean_acceptance_length,
    paired_log_ratios,
    samples_of,
    tokens_per_second,
)
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.runners import PLAIN, SkipoptRunner
from skipopt.measurement.timing import Timer
from skipopt.measurement.workload import Workload
from skipopt.methods import parse_method
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.prompts import load_prompts
from skipopt.stats import ratio_interval

OURS = "skipopt"
OFF = "off"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entrant:
    """A search's result, and what decodes with it."""

    procedure: Procedure
    runner: SkipoptRunner


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    record = earlier_record(given.output, command_of(given)) or {"procedures": [], "rows": []}
    target = skipopt.load(given.model, on_notice=log)
    record = {**record, "command": command_of(given), "environment": environment_of(target)}

    def save() -> None:
        save_results(given.output, record, list(report(record)))

    if "profile" not in record:
        record["profile"] = own_profile(target, given).to_yaml()
        save()
    for found in searches(target, given.seconds, record["procedures"]):
        record["procedures"].append({**asdict(found), "mask": str(found.mask)})
        save()
    entrants = [*published(target, record["procedures"]), *own(target, record["profile"])]
    load = held_out_workload(target, given.prompts, given.tokens)
    print(f"{len(entrants)} ways to decode {len(load.prompts)} held-out prompts", flush=True)
    timer = timed(target, [each.runner for each in entrants], load, given.repeats)
    record["rows"] = [row_of(target, each, load, timer) for each in entrants]
    record |= summary(record["rows"], timer)
    write_results(given.output, record, list(report(record)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--name", help="of the model in the results")
    parser.add_argument("--profile", type=Path, help="found before; else a search runs here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each search")
    parser.add_argument("--prompts", type=int, default=12, help="held-out prompts")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("results/published-baselines"))
    return parser.parse_args()


def command_of(given: argparse.Namespace) -> str:
    name = given.name or Path(given.model).name
    options = f"--profile {shown_path(given.profile)} " if given.profile else ""
    options += f"--threads {given.threads} --seconds {given.seconds:g} --prompts {given.prompts}"
    options += f" --tokens {given.tokens} --repeats {given.repeats}"
    return f"python -m benchmarks.published_baselines {name} {options}"


def own_profile(target: Target, given: argparse.Namespace) -> Profile:
    """The profile given, or that of a search here; with the model's name in the results."""
    if given.profile is not None:
        profile = Profile.load(given.profile)
        profile.check_model(target)
    else:
        print(OURS, flush=True)
        profile = skipopt.search(target, timeout=given.seconds, on_note=log)
    name = given.name or Path(given.model).name
    model = profile.model.model_copy(update={"id": name})
    return profile.model_copy(update={"model": model})


def searches(target: Target, seconds: float, done: Sequence[Row]) -> Iterator[Procedure]:
    """The results of the published searches that have not run yet."""
    prompts = encode(target, load_prompts(model_id=target.model_id).calibration)
    names = {row["name"] for row in done}
    for name, search in PROCEDURES.items():
        if name not in names:
            print(name, flush=True)
            found = search(target, prompts, seconds)
            log(f"{found.seconds:.0f} s: {found.note}, {found.mask}")
            yield found


def published(target: Target, procedures: Sequence[Row]) -> Iterator[Entrant]:
    for row in procedures:
        found = Procedure(**{**row, "mask": SkipMask.parse(row["mask"], target.depth)})
        profile = Profile.build(
            target, found.mask, method=found.method, gamma=found.gamma, tau=found.tau
        )
        runner = SkipoptRunner(target, parse_method(found.method), profile, name=found.name)
        yield Entrant(found, runner)


def own(target: Target, text: str) -> Iterator[Entrant]:
    """The profile, and its drafts in chains if it drafts otherwise.

    Args:
        text: of the profile.
    """
    profile = read_profile(text)
    search, drafting = profile.search, profile.drafting
    seconds = search.seconds if search else 0.0
    note = f"`{search.sampler}`, {search.trials} trials" if search else "by hand"
    mask, settings = profile.skip_mask, profile.draft_settings[0]
    method = drafting.method if profile.enabled else OFF
    drafts = f", {profile.draft_config}" if profile.draft_config else ""

    def procedure(name: str, method: str, note: str) -> Procedure:
        return Procedure(name, mask, method, settings.gamma, settings.tau, seconds, note)

    runner = SkipoptRunner(target, resolve_method(profile, None), profile, name=OURS)
    yield Entrant(procedure(OURS, method, f"{note}{drafts}"), runner)
    if profile.has_mask and method not in (CHAIN_METHOD, OFF):
        name, note = f"{OURS}, {CHAIN_METHOD}", "the same search, its drafts in chains"
        chains = SkipoptRunner(target, parse_method(CHAIN_METHOD), profile, name=name)
        if mask.skipped or profile.draft_config:
            yield Entrant(procedure(name, CHAIN_METHOD, f"{note}{drafts}"), chains)


def read_profile(text: str) -> Profile:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "profile.yaml"
        file.write_text(text, encoding="utf-8")
        return Profile.load(file)


def row_of(target: Target, entrant: Entrant, load: Workload, timer: Timer) -> Row:
    """What the entrant gave on the held-out prompts."""
    found = entrant.procedure
    samples = samples_of(timer.samples, found.name)
    return {
        **asdict(found),
        "mask": str(found.mask),
        "skipped": f"{len(found.mask.skipped)} of {2 * found.mask.layers}",
        "tokens_per_second": tokens_per_second(samples),
        "mean_acceptance_length": mean_acceptance_length(samples),
        "held_out": result_of(target, timer, found.name, load).to_json(),
    }


def summary(rows: Sequence[Row], timer: Timer) -> dict[str, Any]:
    """Number of prompts, speed of plain decoding, and the profile against the best published."""
    others = [row for row in rows if not row["name"].startswith(OURS)]
    best = max(others, key=lambda row: row["tokens_per_second"])["name"]
    ratio = ratio_interval(paired_log_ratios(timer.samples, OURS, best))
    return {
        "prompts": len(timer.prompts),
        "plain_tokens_per_second": tokens_per_second(samples_of(timer.samples, PLAIN)),
        "against_best": {"name": best, **ratio.to_json()},
    }


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page; without a table before the held-out prompts are decoded."""
    yield from page_head("Against the published procedures", record)
    yield ""
    if not record["rows"]:
        yield from (f"- {row['name']}: {row['seconds']:.0f} s" for row in record["procedures"])
        return
    plain = record["plain_tokens_per_second"]
    yield f"{record['prompts']} held-out prompts; plain decoding {plain:.1f} tokens/s."
    yield ""
    yield (
        "| procedure | search | skipped | drafts | tokens/s | decoding alone | end to end "
        "| acceptance rate | tokens per target forward | text |"
    )
    yield "|---|---|---|---|--:|--:|--:|--:|--:|---|"
    yield from map(line_of, record["rows"])
    best = record["against_best"]
    yield ""
    yield (
        f"skipopt against {best['name']}, the best published procedure: median over prompts "
        f"{digits(best)} in decoding alone."
    )


def line_of(row: Row) -> str:
    found, rate = row["held_out"], row["held_out"]["acceptance_rate"]
    drafts = f"{row['method']}, γ = {row['gamma']}, τ = {row['tau']:g}"
    if row["method"] in (OFF, "suffix"):
        drafts = row["method"]
    cells = (
        row["name"],
        f"{row['seconds']:.0f} s: {row['note']}",
        row["skipped"],
        drafts,
        f"{row['tokens_per_second']:.1f}",
        digits(found["decoding"]),
        digits(found["speedup"]),
        "–" if rate is None else f"{rate:.2f}",
        f"{row['mean_acceptance_length']:.2f}",
        found["lossless"],
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
