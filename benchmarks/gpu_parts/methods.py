"""Every way to decode the held-out prompts, interleaved and paired, against plain decoding.

The denominator is plain decoding under the fastest runtime. Knows nothing of how the model was
trained or the mask found.
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
from skipopt.bench import metrics
from skipopt.bench.lossless import ComparedText, LosslessReport, check_texts
from skipopt.bench.methods_table import MethodResult
from skipopt.bench.provenance import hash_of
from skipopt.bench.runners import PLAIN, HFRunner, SkipoptRunner
from skipopt.bench.timing import Clock, Decoding, Guarantee, Runner, Timer, device_clock
from skipopt.bench.workload import OnlyRepetition, Workload, make_workload
from skipopt.errors import ProfileError
from skipopt.masks import SkipMask
from skipopt.methods import parse_method
from skipopt.profile import Profile

if TYPE_CHECKING:
    from skipopt.models.target import Target

DRAFTING = ("layer-skip", "cascade", "prompt-lookup", "rsd-c", "rsd-s", "swift")
COMPILED = "torch.compile"
MOST_REPEATS = 8
SHARE_FOR_JUDGING = 0.2
SHARE_FOR_TIMING = 0.4
BY_HAND = "by hand: half of the middle sublayers"


@dataclass(frozen=True, slots=True)
class Entrant:
    """A contender under a name that tells its runtime; an error of its is noted, not raised."""

    name: str
    runtime: str
    contender: Runner
    may_fail: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        return self.contender.settings

    @property
    def guarantee(self) -> Guarantee:
        return self.contender.guarantee

    def warm_up(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> None:
        self.contender.warm_up(prompt, max_new_tokens, clock)

    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        return self.contender.decode(prompt, max_new_tokens, clock)


@dataclass(frozen=True, slots=True)
class Field:
    """Who is compared on what.

    Attributes:
        against: name of the contender that all are compared with; it writes the references.
        absent: rows that cannot be run, and why.
        looped: the model only repeats itself, so that loops had to be left in.
    """

    judge: Target
    entrants: list[Entrant]
    against: str
    absent: dict[str, str]
    workload: Workload
    looped: bool
    facts: dict[str, Any]


def methods(session: Session) -> Iterator[dict[str, Any]]:
    """Rows so far, after every prompt; judged for losslessness at the end."""
    field = make_field(session)
    clock = device_clock(session.device)
    timer = Timer(field.entrants, field.workload.prompts, field.workload.lengths, clock)
    whole = session.left()
    until = whole * SHARE_FOR_JUDGING
    for entrant in field.entrants:
        _warm_up(session, timer, entrant, whole * SHARE_FOR_TIMING)
    for repeat in range(MOST_REPEATS):
        for prompt in timer.iter_repeat():
            session.say(f"repeat {repeat}, prompt {prompt}, {session.left():.0f} s left")
            yield _record(field, timer, {})
            if session.left() < until:
                break
        if session.left() < until:
            break
    texts = dict.fromkeys(field.workload.compared_texts(timer.samples))
    yield _record(field, timer, judge(field.judge, texts, session.left))


def _warm_up(session: Session, timer: Timer, entrant: Entrant, least: float) -> None:
    """What is compiled is warmed up only while enough time would be left to time everybody."""
    if entrant.runtime == COMPILED and session.left() < least:
        timer.exclude(entrant.name, "there was no time left to compile it: raise --seconds")
        return
    session.say(f"warming up {entrant.name}, {session.left():.0f} s left")
    timer.warm_up_runner(entrant)


def make_field(session: Session) -> Field:
    """Targets, contenders, prompts and their references."""
    eager = load_eager(session)
    # What is compiled must not see masks come and go.
    beside = replace(eager, model=deepcopy(eager.model))
    targets, missing = under_runtimes(eager)
    runtime = fastest(targets)
    profile, source = _profile(session, eager)
    prompts = [
        list(eager.tokenizer(prompt.text)["input_ids"])
        for prompt in make_prompts(session.sizes.calibration, session.sizes.held_out).held_out
    ]
    plain = SkipoptRunner(targets[runtime], parse_method(PLAIN))
    clock, new_tokens = device_clock(session.device), session.sizes.new_tokens
    load, looped = _workload(prompts, lambda p: plain.decode(p, new_tokens, clock).tokens)
    capacity = max(map(len, prompts)) + new_tokens
    entrants = [
        *_plain(targets),
        *_drafting(targets[runtime], runtime, profile),
        *_compiled(session, beside, capacity),
    ]
    facts = {
        "profile": source,
        "mask": str(profile.skip_mask),
        "prompts": {"hash": hash_of(prompts), **load.to_json()},
        "new_tokens": new_tokens,
    }
    absent = {f"{PLAIN}-{name}": why for name, why in missing.items()}
    return Field(eager, entrants, f"{PLAIN}-{runtime}", absent, load, looped, facts)


def _workload(prompts: Sequence[Sequence[int]], write: Any) -> tuple[Workload, bool]:
    """Loops cut off; left in, and so told, where there is nothing else."""
    try:
        return make_workload(prompts, write), False
    except OnlyRepetition:
        given = tuple(map(tuple, prompts))
        texts = tuple(tuple(write(prompt)) for prompt in given)
        return Workload(given, texts, len(given), len(given), 0), True


def _profile(session: Session, target: Target) -> tuple[Profile, str]:
    """What the search found for this model; where there is nothing, a mask by hand."""
    try:
        found = Profile.load(session.profile_path)
        found.check_model(target.architecture, target.depth, target.fingerprint)
    except ProfileError as error:
        return by_hand(target), f"{BY_HAND} ({in_one_line(error)})"
    if not found.skip_mask.skipped:
        return by_hand(target), f"{BY_HAND} (the search found no mask)"
    return found, "search"


def by_hand(target: Target) -> Profile:
    """Every second sublayer of the middle half is skipped."""
    quarter = target.depth // 4
    middle = range(quarter, max(quarter + 1, target.depth - quarter))
    mask = SkipMask.of(target.depth, attention=middle[::2], mlp=middle[1::2])
    return Profile.build(target, mask, gamma=4, tau=0.0)


def _plain(targets: dict[str, Target]) -> Iterator[Entrant]:
    for runtime, target in targets.items():
        yield Entrant(f"{PLAIN}-{runtime}", runtime, SkipoptRunner(target, parse_method(PLAIN)))


def _compiled(session: Session, beside: Target, capacity: int) -> Iterator[Entrant]:
    """torch.compile'd plain decoding, and transformers' own; the slowest to compile comes last."""
    name = f"{PLAIN}-compiled"
    compiled = CompiledPlain(name, beside, capacity, session.sizes.compile)
    yield Entrant("hf-generate-eager", "eager", HFRunner(beside, "hf-generate", ({},)))
    yield Entrant(name, COMPILED, compiled)
    if session.device.type == "cuda":  # on a CPU it can only lose
        ours = skipopt.load((beside.model, beside.tokenizer), runtime="inductor")
        yield Entrant(f"{PLAIN}-inductor", COMPILED, SkipoptRunner(ours, parse_method(PLAIN)))
    static = {"cache_implementation": "static", "max_cache_len": capacity}
    yield Entrant("hf-generate-static", COMPILED, HFRunner(beside, "hf-generate", (static,)))


def _drafting(target: Target, runtime: str, profile: Profile) -> Iterator[Entrant]:
    for method in DRAFTING:
        yield Entrant(method, runtime, SkipoptRunner(target, parse_method(method), profile))


def judge(
    target: Target, texts: Iterable[ComparedText], left: Callable[[], float]
) -> dict[ComparedText, LosslessReport]:
    """Each text's verdict, while there is time; one that differs is looked at in any case.

    A text that differs from the reference takes a forward for each token. Methods often differ in
    the same place, so texts are judged once for all of them.
    """
    known: dict[ComparedText, LosslessReport] = {}
    looked = False
    for text in texts:
        differs = text.emitted != text.reference
        if differs and looked and left() < 0:
            continue
        known[text] = check_texts(target, [text])
        looked = looked or differs
    return known


def summed(verdicts: Sequence[LosslessReport]) -> LosslessReport | None:
    """Of several texts; None of none."""
    if not verdicts:
        return None
    margins = [each.margin for each in verdicts if each.margin is not None]
    return LosslessReport(
        exact=sum(each.exact for each in verdicts),
        within_margin=sum(each.within_margin for each in verdicts),
        failed=sum(each.failed for each in verdicts),
        margin=max(margins, default=None),
    )


def _record(
    field: Field, timer: Timer, known: Mapping[ComparedText, LosslessReport]
) -> dict[str, Any]:
    rows = [_row(field, each, timer, known) for each in field.entrants]
    rows += [MethodResult(n, {}, error=why).to_json() for n, why in field.absent.items()]
    return {
        **field.facts,
        "against": field.against,
        "loops_left_in": field.looped,
        "timed_texts": len(timer.samples),
        "peak_memory_bytes": peak_memory(field.judge.device),
        "methods": rows,
    }


def _row(
    field: Field, entrant: Entrant, timer: Timer, known: Mapping[ComparedText, LosslessReport]
) -> dict[str, Any]:
    own = metrics.samples_of(timer.samples, entrant.name)
    error = timer.errors.get(entrant.name)
    if error is None and not _paired(field, own, timer):
        error = f"not timed beside {field.against}"
    if error is not None:
        result = MethodResult(entrant.name, entrant.settings, error=error)
        return {**result.to_json(), "runtime": entrant.runtime}
    texts = dict.fromkeys(field.workload.compared_texts(own))
    result = MethodResult(
        name=entrant.name,
        settings=entrant.settings,
        tokens_per_second=metrics.tokens_per_second(own),
        prefill_seconds=metrics.prefill_seconds(own),
        speedup=metrics.speedup(timer.samples, entrant.name, field.against),
        acceptance_rate=metrics.acceptance_rate(own),
        mean_acceptance_length=metrics.mean_acceptance_length(own),
        guarantee=entrant.guarantee,
        lossless=summed([known[text] for text in texts if text in known]),
        samples=tuple(own),
    )
    unjudged = sum(text not in known for text in texts)
    return {**result.to_json(), "runtime": entrant.runtime, "unjudged_texts": unjudged}


def _paired(field: Field, own: Sequence[Any], timer: Timer) -> bool:
    """Is there a prompt and repeat that both decoded?"""
    other = metrics.samples_of(timer.samples, field.against)
    return bool({(s.prompt, s.repeat) for s in own} & {(s.prompt, s.repeat) for s in other})
