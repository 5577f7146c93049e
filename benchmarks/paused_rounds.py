"""What a paused method costs: its rounds without a draft beside steps of plain decoding.

    python -m benchmarks.paused_rounds MODEL --threads 2 --output results/paused-rounds

Every method that can pause, and every one that may find nothing to draft, decodes texts in turn
with plain decoding. Drafts of the model skip every sublayer but those of the first layers, which
never pays, so that the methods pause. A round is compared with the plain step that made the same
token of the same text. Rounds with a draft are not compared; the ratio of whole texts has them
too, and shows what it costs until a method pauses.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

import skipopt
from benchmarks.held_out import digits, held_out_workload
from benchmarks.result_files import log, page_head, shown_path, write_results
from skipopt.decoding.api import new_online_state, resolve_method
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.runners import PLAIN, SkipoptRunner
from skipopt.measurement.timing import Decoding, run_order
from skipopt.measurement.workload import Workload
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.stats import ratio_interval

METHODS = (
    "cascade",
    "cascade:recycle=yes",
    "swift:tune_mask=no",
    "token-recycling",
    "suffix",
    "prompt-lookup",
)
TUNED = "layer-skip, tuned"
KEPT = 2  # first layers that drafts keep


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model, on_notice=log)
    load = held_out_workload(target, given.prompts, given.tokens)
    runners = list(runners_of(target))
    found = decode_all(runners, load)
    plain = found.pop(PLAIN)
    record = {
        "command": command_of(given),
        "environment": environment_of(target),
        "workload": load.to_json(),
        "methods": {name: compared(texts, plain) for name, texts in found.items()},
    }
    write_results(given.output, record, list(report(record)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--name", help="of the model in the results")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=8, help="held-out prompts")
    parser.add_argument("--tokens", type=int, default=128, help="of each text")
    parser.add_argument("--output", type=Path, default=Path("results/paused-rounds"))
    return parser.parse_args()


def command_of(given: argparse.Namespace) -> str:
    name = given.name or Path(given.model).name
    options = f"--threads {given.threads} --prompts {given.prompts} --tokens {given.tokens}"
    return (
        f"python -m benchmarks.paused_rounds {name} {options} --output {shown_path(given.output)}"
    )


def runners_of(target: Target) -> Iterator[SkipoptRunner]:
    """Plain decoding, and the methods with drafts that never pay."""
    skipped = range(KEPT, target.depth)
    profile = Profile.by_hand(target, attention=skipped, mlp=skipped)
    yield SkipoptRunner(target, resolve_method(None, PLAIN))
    for method in METHODS:
        yield SkipoptRunner(target, resolve_method(profile, method), profile)
    state = new_online_state(target, profile=profile)
    spec = resolve_method(profile, None, tuning=True)
    yield SkipoptRunner(target, spec, profile, name=TUNED, online_state=state)


def decode_all(runners: Sequence[SkipoptRunner], load: Workload) -> dict[str, list[Decoding]]:
    """By runner, its decoding of every text; the runners take turns."""
    found: dict[str, list[Decoding]] = {runner.name: [] for runner in runners}
    for runner in runners:
        runner.warm_up(load.prompts[0], load.lengths[0], time.perf_counter)
    for number, (prompt, length) in enumerate(zip(load.prompts, load.lengths, strict=True)):
        log(f"text {number + 1} of {len(load.prompts)}")
        for index in run_order(len(runners), number, 0):
            runner = runners[index]
            found[runner.name].append(runner.decode(prompt, length, time.perf_counter))
    return found


def compared(texts: Sequence[Decoding], plain: Sequence[Decoding]) -> dict[str, Any]:
    """A method's texts beside the plain ones; ratios are plain seconds ÷ the method's.

    Raises:
        SystemExit: a text differs from the plain one.
    """
    if any(own.tokens != other.tokens for own, other in zip(texts, plain, strict=True)):
        raise SystemExit("a text differs from that of plain decoding")
    pairs = list(zip(texts, plain, strict=True))
    ratios = [ratio for own, other in pairs if (ratio := paused_ratio(own, other)) is not None]
    whole = [[math.log(other.decode_seconds / own.decode_seconds)] for own, other in pairs]
    rounds = [each for own in texts for each in own.rounds]
    return {
        "rounds": len(rounds),
        "without_draft": sum(not each.drafted for each in rounds),
        "round": ratio_interval([[ratio] for ratio in ratios]).to_json() if ratios else None,
        "text": ratio_interval(whole).to_json(),
    }


def paused_ratio(own: Decoding, plain: Decoding) -> float | None:
    """Logarithm of plain ÷ own seconds: the median over rounds without a draft, if any."""
    steps = step_seconds(plain)
    ratios = [
        math.log(steps[end] / seconds)
        for (end, seconds), each in zip(step_seconds(own).items(), own.rounds[1:], strict=True)
        if not each.drafted
    ]
    return median(ratios) if ratios else None


def step_seconds(decoding: Decoding) -> dict[int, float]:
    """By number of new tokens at its end, the seconds of each round but the first.

    The first one's include the prefill.
    """
    timeline = decoding.timeline
    return {
        after.new_tokens: after.seconds - before.seconds for before, after in pairwise(timeline)
    }


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page."""
    yield from page_head("What a paused method costs", record)
    yield ""
    prompts = record["workload"]["num_timed"]
    yield f"{prompts} held-out prompts; all texts are those of plain decoding."
    yield ""
    yield "| method | rounds without a draft | such a round | whole texts |"
    yield "|---|--:|--:|--:|"
    for name, found in record["methods"].items():
        share = f"{found['without_draft']} of {found['rounds']}"
        yield f"| {name} | {share} | {fine_digits(found['round'])} | {digits(found['text'])} |"
    yield ""
    yield (
        "Speed, in that of plain decoding: medians over texts with 95 % bootstrap intervals. "
        "*Such a round* is compared with the plain step that made the same token."
    )


def fine_digits(interval: Mapping[str, float] | None) -> str:
    """`0.998 (0.991–1.002)` of an interval's JSON; a dash for None."""
    if interval is None:
        return "–"
    return f"{interval['median']:.3f} ({interval['low']:.3f}–{interval['high']:.3f})"


if __name__ == "__main__":
    main()
