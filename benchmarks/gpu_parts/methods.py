"""The part `methods`: all methods and peers on the held-out prompts, paired and interleaved.

Speedups are against plain decoding under the fastest runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import skipopt
from benchmarks.gpu_parts.compiled import CompiledPlain
from benchmarks.gpu_parts.devices import peak_memory
from benchmarks.gpu_parts.session import Session
from benchmarks.gpu_parts.sources import make_prompts
from benchmarks.gpu_parts.targets import fastest, in_one_line, load_eager, under_runtimes
from benchmarks.workloads import encode
from skipopt.errors import ProfileError
from skipopt.masks import SkipMask
from skipopt.measurement import metrics
from skipopt.measurement.lossless import ComparedText, LosslessReport, check_texts
from skipopt.measurement.methods_table import MethodResult, method_result
from skipopt.measurement.provenance import hash_of
from skipopt.measurement.runners import PLAIN, HFRunner, SkipoptRunner
from skipopt.measurement.timing import Runner, Sample, Timer, device_clock
from skipopt.measurement.workload import Continue, OnlyRepetition, Workload, make_workload
from skipopt.methods import MethodSpec, parse_method
from skipopt.profile import Profile

if TYPE_CHECKING:
    from skipopt.models.target import Target

DRAFTING = ("layer-skip", "cascade", "prompt-lookup", "rsd-c", "rsd-s", "swift")
PLAIN_SPEC = MethodSpec(PLAIN)
COMPILED = "torch.compile"
MAX_REPEATS = 8
SHARE_FOR_CHECKING = 0.2  # of the part's time, kept for comparing texts
SHARE_FOR_TIMING = 0.4  # the same, for timing; no runner is compiled once less is left
BY_HAND = "by hand: half of the middle sublayers"


@dataclass(frozen=True, slots=True)
class Entry:
    """A runner and the runtime it decodes with."""

    runner: Runner
    runtime: str

    @property
    def name(self) -> str:
        return self.runner.name


@dataclass(frozen=True, slots=True)
class Setup:
    """What is compared on which texts.

    Attributes:
        reference: the target that texts are checked with.
        entries: in the order of the table.
        baseline: name of the runner that speedups are measured against; it writes the references.
        unavailable: reasons, by the name of a row that cannot be run.
        repetitive: the model only repeats itself, so that repetition had to be left in.
        facts: for the record.
    """

    reference: Target
    entries: list[Entry]
    baseline: str
    unavailable: dict[str, str]
    workload: Workload
    repetitive: bool
    facts: dict[str, Any]


def methods(session: Session) -> Iterator[dict[str, Any]]:
    """Yields the rows so far after every prompt; at the end with the check of the texts."""
    setup = make_setup(session)
    runners = [entry.runner for entry in setup.entries]
    load = setup.workload
    timer = Timer(runners, load.prompts, load.lengths, device_clock(session.device))
    whole = session.left()
    for entry in setup.entries:
        warm_up(session, timer, entry, whole * SHARE_FOR_TIMING)
    for repeat, prompt in _timed_prompts(timer, session, whole * SHARE_FOR_CHECKING):
        session.say(f"repeat {repeat}, prompt {prompt}, {session.left():.0f} s left")
        yield _record(setup, timer, {})
    texts = dict.fromkeys(load.compared_texts(timer.samples))
    yield _record(setup, timer, check_all(setup.reference, texts, session.left))


def _timed_prompts(timer: Timer, session: Session, until: float) -> Iterator[tuple[int, int]]:
    """(repeat, prompt) of each prompt that all runners have decoded, while there is time."""
    for repeat in range(MAX_REPEATS):
        for prompt in timer.iter_repeat():
            yield repeat, prompt
            if session.left() < until:
                return


def warm_up(session: Session, timer: Timer, entry: Entry, min_seconds: float) -> None:
    """Warm one runner up; one that compiles is excluded once less than `min_seconds` are left."""
    if entry.runtime == COMPILED and session.left() < min_seconds:
        timer.exclude(entry.name, "there was no time left to compile it: raise --seconds")
        return
    session.say(f"warming up {entry.name}, {session.left():.0f} s left")
    timer.warm_up_runner(entry.runner)


def make_setup(session: Session) -> Setup:
    """Targets, runners, prompts and their references."""
    eager = load_eager(session)
    # Compiled code must not see masks come and go, so it gets a model of its own.
    separate = replace(eager, model=deepcopy(eager.model))
    targets, missing = under_runtimes(eager)
    runtime = fastest(targets)
    profile, source = choose_profile(session, eager)
    held_out = make_prompts(session.sizes.calibration, session.sizes.held_out).held_out
    prompts = encode(eager, held_out)
    plain = SkipoptRunner(targets[runtime], PLAIN_SPEC)
    clock, new_tokens = device_clock(session.device), session.sizes.new_tokens
    load, repetitive = _workload(prompts, lambda p: plain.decode(p, new_tokens, clock).tokens)
    capacity = max(map(len, prompts)) + new_tokens
    entries = [
        *_plain(targets),
        *_drafting(targets[runtime], runtime, profile),
        *_compiled(session, separate, capacity),
    ]
    facts = {
        "profile": source,
        "mask": str(profile.skip_mask),
        "prompts": {"hash": hash_of(prompts), **load.to_json()},
        "new_tokens": new_tokens,
    }
    unavailable = {f"{PLAIN}-{name}": why for name, why in missing.items()}
    return Setup(eager, entries, f"{PLAIN}-{runtime}", unavailable, load, repetitive, facts)


def _workload(prompts: Sequence[Sequence[int]], write: Continue) -> tuple[Workload, bool]:
    """The workload, and whether repetition was left in because there is nothing else."""
    try:
        return make_workload(prompts, write), False
    except OnlyRepetition:
        given = tuple(map(tuple, prompts))
        texts = tuple(tuple(write(prompt)) for prompt in given)
        return Workload(given, texts, len(given), len(given), 0), True


def choose_profile(session: Session, target: Target) -> tuple[Profile, str]:
    """The profile of the search and where it is from; a mask by hand if the search has none."""
    try:
        found = Profile.load(session.profile_path)
        found.check_model(target)
    except ProfileError as error:
        return by_hand(target), f"{BY_HAND} ({in_one_line(error)})"
    if not found.skip_mask.skipped:
        return by_hand(target), f"{BY_HAND} (the search found no mask)"
    return found, "search"


def by_hand(target: Target) -> Profile:
    """A profile that skips every second sublayer of the middle half."""
    quarter = target.depth // 4
    middle = range(quarter, max(quarter + 1, target.depth - quarter))
    mask = SkipMask.of(target.depth, attention=middle[::2], mlp=middle[1::2])
    return Profile.build(target, mask, gamma=4, tau=0.0)


def _plain(targets: dict[str, Target]) -> Iterator[Entry]:
    for runtime, target in targets.items():
        name = f"{PLAIN}-{runtime}"
        yield Entry(SkipoptRunner(target, PLAIN_SPEC, name=name, may_fail=True), runtime)


def _drafting(target: Target, runtime: str, profile: Profile) -> Iterator[Entry]:
    for method in DRAFTING:
        runner = SkipoptRunner(target, parse_method(method), profile, may_fail=True)
        yield Entry(runner, runtime)


def _compiled(session: Session, separate: Target, capacity: int) -> Iterator[Entry]:
    """Plain decoding under `torch.compile`, and transformers'; the slowest to compile is last."""
    yield Entry(HFRunner(separate, "hf-generate-eager", ({},)), "eager")
    name = f"{PLAIN}-compiled"
    yield Entry(CompiledPlain(name, separate, capacity, session.sizes.compile), COMPILED)
    if session.device.type == "cuda":  # never faster on a CPU
        ours = skipopt.load((separate.model, separate.tokenizer), runtime="inductor")
        name = f"{PLAIN}-inductor"
        yield Entry(SkipoptRunner(ours, PLAIN_SPEC, name=name, may_fail=True), COMPILED)
    static = {"cache_implementation": "static", "max_cache_len": capacity}
    yield Entry(HFRunner(separate, "hf-generate-static", (static,)), COMPILED)


def check_all(
    target: Target, texts: Iterable[ComparedText], left: Callable[[], float]
) -> dict[ComparedText, LosslessReport]:
    """The report of each text, while there is time; at least one text that differs is checked.

    A text that differs from its reference takes a forward for each token. Methods often differ at
    the same place, so each text is checked once for all of them.
    """
    reports: dict[ComparedText, LosslessReport] = {}
    checked_one = False
    for text in texts:
        differs = text.emitted != text.reference
        if differs and checked_one and left() < 0:
            continue
        reports[text] = check_texts(target, [text])
        checked_one = checked_one or differs
    return reports


def _record(
    setup: Setup, timer: Timer, reports: Mapping[ComparedText, LosslessReport]
) -> dict[str, Any]:
    rows = [_row(setup, entry, timer, reports) for entry in setup.entries]
    rows += [MethodResult(n, {}, error=why).to_json() for n, why in setup.unavailable.items()]
    return {
        **setup.facts,
        "baseline": setup.baseline,
        "repetition_left_in": setup.repetitive,
        "timed_texts": len(timer.samples),
        "peak_memory_bytes": peak_memory(setup.reference.device),
        "methods": rows,
    }


def _row(
    setup: Setup, entry: Entry, timer: Timer, reports: Mapping[ComparedText, LosslessReport]
) -> dict[str, Any]:
    own = metrics.samples_of(timer.samples, entry.name)
    if entry.name not in timer.errors and not _is_paired(setup, own, timer):
        error = f"not timed on a prompt that {setup.baseline} was timed on"
        result = MethodResult(entry.name, entry.runner.settings, error=error)
        return {**result.to_json(), "runtime": entry.runtime}
    texts = dict.fromkeys(setup.workload.compared_texts(own))
    known = [reports[text] for text in texts if text in reports]
    lossless = LosslessReport.sum_of(known) if known else None
    result = method_result(entry.runner, timer, setup.baseline, lossless)
    unchecked = len(texts) - len(known)
    return {**result.to_json(), "runtime": entry.runtime, "unchecked_texts": unchecked}


def _is_paired(setup: Setup, own: Sequence[Sample], timer: Timer) -> bool:
    """Whether there is a prompt and repeat that the baseline decoded, too."""
    other = metrics.samples_of(timer.samples, setup.baseline)
    return bool({(s.prompt, s.repeat) for s in own} & {(s.prompt, s.repeat) for s in other})
