"""Searches with default options: the time they take, and what their profiles promise and give.

    python -m benchmarks.search_promise builtin NAME=MODEL … --budgets 20,60,none --seeds 0,1

Every search runs in a process of its own; its time excludes loading. The profile that it finds
then decodes held-out prompts in a second process, paired and interleaved with plain decoding, end
to end (as `skipopt bench` does). Results are written after each process. With the same `--output`,
what is there already is not measured again, and further searches are added.

The overrun is relative to the budget; without one (`none`), to the limit that the search plans and
tells. *Promised* is the profile's `expected`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

import skipopt
from benchmarks.held_out import digits, held_out_workload, result_of, timed
from benchmarks.result_files import save_results, write_results
from benchmarks.search_report import report
from skipopt.decoding.api import resolve_method
from skipopt.errors import SearchError
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.runners import SkipoptRunner
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.study.progress import Progress
from skipopt.study.time_plan import PLANNED_SHARE

MODULE = "benchmarks.search_promise"


@dataclass(frozen=True, slots=True)
class Search:
    """One search.

    Attributes:
        model: its name in the results.
        budget: `timeout` in seconds; None: not given.
        seconds: wall time, loading apart.
        limit: seconds that the search was to take: the budget, or what its plan told; None where
            it was refused before it had a plan.
        answer: method, number of skipped sublayers and draft configuration; `off` where nothing
            pays, `refused` where the budget is too short for any answer.
        reason: why it is off or was refused.
        expected: the profile's, as a mapping.
        profile: its file; None if there is none.
    """

    model: str
    budget: float | None
    seed: int
    threads: int
    commit: str
    seconds: float
    limit: float | None
    trials: int = 0
    answer: str = "refused"
    reason: str | None = None
    expected: Mapping[str, Any] | None = None
    profile: str | None = None


Row = dict[str, Any]  # a `Search`, and under `held_out` what `HeldOut.to_json` returns


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", help="MODEL, or NAME=MODEL to name it in the results")
    parser.add_argument("--budgets", default="none", help="seconds; none: no --timeout")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--prompts", type=int, default=24, help="held out, of all categories")
    parser.add_argument("--tokens", type=int, default=64, help="of each held-out text")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-heldout", action="store_true", help="only time the searches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("results/search-promise"))
    parser.add_argument("--child", choices=("search", "held-out"), help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.child == "search":
        print(json.dumps(search_here(given)))
    elif given.child == "held-out":
        print(json.dumps(decode_here(given)))
    else:
        measure_all(given)


def named(model: str) -> tuple[str, str]:
    """Name in the results and source of `NAME=MODEL` or `MODEL`."""
    name, equals, source = model.partition("=")
    return (name, source) if equals else (Path(model).name, model)


def budgets_of(text: str) -> list[float | None]:
    return [None if each == "none" else float(each) for each in text.split(",")]


def search_here(given: argparse.Namespace) -> dict[str, Any]:
    """Search in this process; a `Search` and the environment."""
    name, source = named(given.models[0])
    target = load_target(source, given.threads)
    budget, seed = budgets_of(given.budgets)[0], int(given.seeds)
    environment = environment_of(target)
    limits = [budget] if budget is not None else []
    found = partial(Search, name, budget, seed, given.threads, environment["commit"])

    def note_limit(progress: Progress) -> None:
        if not limits and progress.seconds_left is not None:
            limits.append((progress.seconds + progress.seconds_left) / PLANNED_SHARE)

    began = time.perf_counter()
    try:
        profile = skipopt.search(
            target, timeout=budget, seed=seed, on_progress=note_limit, on_note=log
        )
    except SearchError as refused:
        result = found(time.perf_counter() - began, None, reason=str(refused))
    else:
        seconds = time.perf_counter() - began
        result = found(seconds, limits[0] if limits else None, **answer_of(profile, name))
    return {"search": asdict(result), "environment": environment_of(target)}


def load_target(source: str, threads: int) -> Target:
    torch.set_num_threads(threads)
    return skipopt.load(source, on_notice=log)


def log(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def answer_of(profile: Profile, name: str) -> dict[str, Any]:
    """The fields of a `Search` that its profile has; the model is renamed in the profile."""
    model = profile.model.model_copy(update={"id": name})
    return {
        "trials": profile.search.trials if profile.search else 0,
        "answer": chosen(profile),
        "reason": profile.reason,
        "expected": profile.expected.model_dump() if profile.expected else None,
        "profile": profile.model_copy(update={"model": model}).to_yaml(),
    }


def chosen(profile: Profile) -> str:
    """Method, number of skipped sublayers and draft configuration; `off` where nothing pays."""
    if not profile.enabled:
        return "off"
    skipped = len(profile.skip_mask.skipped) if profile.mask is not None else 0
    takes_config = profile.mask is not None or profile.candidate is None
    parts = [
        profile.drafting.method,
        f"{skipped} skipped" if skipped else "",
        str(profile.draft_config) if takes_config and profile.draft_config else "",
        f"γ = {profile.drafting.gamma}" if profile.drafting.gamma else "",
        f"τ = {profile.drafting.tau:g}" if profile.drafting.tau else "",
    ]
    return ", ".join(filter(None, parts))


def decode_here(given: argparse.Namespace) -> dict[str, Any]:
    """Decode held-out prompts in this process with a profile and plainly; `HeldOut.to_json`."""
    target = load_target(named(given.models[0])[1], given.threads)
    profile = Profile.load(given.profile)
    profile.check_model(target)
    load = held_out_workload(target, given.prompts, given.tokens)
    runner = SkipoptRunner(target, resolve_method(profile, None), profile, name="profile")
    timer = timed(target, [runner], load, given.repeats, fresh=True)
    found = result_of(target, timer, runner.name, load)
    return {**found.to_json(), "workload": load.to_json(), **settings_of(given)}


def settings_of(given: argparse.Namespace) -> dict[str, int]:
    """What two measurements on held-out prompts must have in common."""
    return {
        "prompts_wanted": given.prompts,
        "tokens": given.tokens,
        "repeats": given.repeats,
        "threads": given.threads,
    }


def measure_all(given: argparse.Namespace) -> None:
    """All searches, each followed by its held-out prompts; the files are written after each."""
    rows, commands, environment = earlier(given.output)
    commands = [*dict.fromkeys([*commands, command_of(given)])]
    wanted = list(
        product(given.models, budgets_of(given.budgets), map(int, given.seeds.split(",")))
    )

    def record_of() -> dict[str, Any]:
        return {"commands": commands, "environment": environment, "searches": rows}

    def save() -> None:
        save_results(given.output, record_of(), list(report(record_of())))

    for number, (model, budget, seed) in enumerate(wanted, 1):
        limit = "no budget" if budget is None else f"{budget:g} s"
        print(f"[{number}/{len(wanted)}] {named(model)[0]}, {limit}, seed {seed}", flush=True)
        row = known(rows, named(model)[0], budget, seed, given.threads)
        if row is None:
            found = run_child(given, "search", model, budget, seed)
            environment, row = found["environment"], found["search"]
            rows.append(row)
            save()
            print(f"  {row['seconds']:.1f} s: {row['answer']}", flush=True)
        if not given.no_heldout and wants_held_out(row, given):
            row["held_out"] = run_held_out(given, model, row["profile"])
            save()
            print(f"  held out: {digits(row['held_out']['speedup'])}", flush=True)
    write_results(given.output, record_of(), list(report(record_of())))


def earlier(output: Path) -> tuple[list[Row], list[str], dict[str, Any]]:
    """Searches, commands and environment of the results that are there already."""
    file = output.with_name(f"{output.name}.json")
    if not file.exists():
        return [], [], {}
    record = json.loads(file.read_text(encoding="utf-8"))
    print(f"{file}: {len(record['searches'])} searches are there already")
    return record["searches"], record["commands"], record["environment"]


def command_of(given: argparse.Namespace) -> str:
    names = " ".join(named(model)[0] for model in given.models)
    options = f"--budgets {given.budgets} --seeds {given.seeds} --threads {given.threads}"
    if given.no_heldout:
        return f"python -m {MODULE} {names} {options} --no-heldout"
    texts = f"--prompts {given.prompts} --tokens {given.tokens} --repeats {given.repeats}"
    return f"python -m {MODULE} {names} {options} {texts}"


def known(
    rows: Sequence[Row], model: str, budget: float | None, seed: int, threads: int
) -> Row | None:
    """The search that was made already."""
    key = {"model": model, "budget": budget, "seed": seed, "threads": threads}
    return next((row for row in rows if key.items() <= row.items()), None)


def wants_held_out(row: Row, given: argparse.Namespace) -> bool:
    """Whether the profile decodes anything faster, and was not measured with these settings."""
    if row["answer"] in ("off", "refused"):
        return False
    return not settings_of(given).items() <= row.get("held_out", {}).items()


def run_child(
    given: argparse.Namespace, kind: str, model: str, budget: float | None, seed: int, *more: str
) -> dict[str, Any]:
    """What a process of its own prints; its notes appear on stderr.

    Raises:
        SystemExit: it failed; its message is on stderr.
    """
    limit = "none" if budget is None else f"{budget:g}"
    options = ["--budgets", limit, "--seeds", str(seed), "--threads", str(given.threads)]
    options += ["--prompts", str(given.prompts), "--tokens", str(given.tokens)]
    options += ["--repeats", str(given.repeats), "--child", kind, *more]
    command = [sys.executable, "-m", MODULE, model, *options]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        raise SystemExit(f"the {kind} of {model} failed; what was measured before is written")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def run_held_out(given: argparse.Namespace, model: str, profile: str) -> dict[str, Any]:
    """The profile on held-out prompts, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "profile.yaml"
        file.write_text(profile, encoding="utf-8")
        return run_child(given, "held-out", model, None, 0, "--profile", str(file))


if __name__ == "__main__":
    main()
