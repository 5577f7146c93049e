"""Every method side by side on the same prompts: speed, and whether the text is the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from skipopt.decoding.api import resolve_method
from skipopt.errors import UsageError
from skipopt.measurement import metrics
from skipopt.measurement.bench_setup import BenchSetup, check_repeats
from skipopt.measurement.lossless import LosslessReport, check_texts
from skipopt.measurement.metrics import EndToEnd, SourceCounts
from skipopt.measurement.prompts import AnyPrompts, encode_any
from skipopt.measurement.provenance import environment_of, hash_of
from skipopt.measurement.runners import GREEDY, HF_GENERATE, HF_PROMPT_LOOKUP, PLAIN, make_runners
from skipopt.measurement.timing import (
    DEFAULT_REPEATS,
    FIRST_TEXTS,
    Clock,
    Guarantee,
    ProgressCallback,
    Runner,
    Sample,
    Timer,
    device_clock,
    ignore_progress,
)
from skipopt.measurement.workload import Workload, make_workload
from skipopt.profile.model_identity import model_facts
from skipopt.stats import Interval

if TYPE_CHECKING:
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.models.target import Target
    from skipopt.profile import Profile
    from skipopt.sampling import SamplingOptions


PROFILE_METHOD = "profile"  # stands for the profile's method


@dataclass(frozen=True, slots=True, repr=False)
class MethodResult:
    """One row of the table. With an `error`, all measurements are None.

    Attributes:
        settings: what the method ran with: mask, γ and τ, or arguments of `generate`.
        tokens_per_second: of decoding, without the prefill.
        prefill_seconds: median over samples.
        speedup: of decoding alone, against skipopt's own plain decoding.
        end_to_end: of whole texts, prefill included, against the same.
        first_text: the same where nothing was captured or copied before; None if not measured.
        speedup_by_category: `speedup` on the prompts of each category.
        speedup_vs_hf: against `hf-generate`; None if that was not run.
        acceptance_rate: None where nothing is drafted, or rounds are not shown.
        drafts_by_source: by the word for where they came from.
        mean_acceptance_length: tokens per target forward; None where rounds are not shown.
        acceptance_by_position: by position in a draft, the share of rounds with a token accepted
            there; empty where rounds are not shown.
        seconds_by_phase: seconds per new token; see `metrics.seconds_by_phase`.
        guarantee: how the text relates to that of plain decoding by construction.
        lossless: how it does by comparison; None if only the distribution is the same.
    """

    name: str
    settings: Mapping[str, Any]
    tokens_per_second: float | None = None
    prefill_seconds: float | None = None
    speedup: Interval | None = None
    end_to_end: EndToEnd | None = None
    first_text: EndToEnd | None = None
    speedup_by_category: tuple[tuple[str, Interval], ...] = ()
    speedup_vs_hf: Interval | None = None
    acceptance_rate: float | None = None
    drafts_by_source: Mapping[str, SourceCounts] = field(default_factory=dict)
    mean_acceptance_length: float | None = None
    acceptance_by_position: tuple[float, ...] = ()
    seconds_by_phase: Mapping[str, float] = field(default_factory=dict)
    guarantee: Guarantee | None = None
    lossless: LosslessReport | None = None
    samples: tuple[Sample, ...] = ()
    error: str | None = None

    def __repr__(self) -> str:
        return f"MethodResult({self.name!r}, {self._speed})"

    @property
    def _speed(self) -> str:
        if self.speedup is None:
            return f"error: {self.error}"
        return f"{self.speedup.median:.2f}× ({self.speedup.low:.2f}–{self.speedup.high:.2f})"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "tokens_per_second": self.tokens_per_second,
            "prefill_seconds": self.prefill_seconds,
            "speedup": self.speedup and self.speedup.to_json(),
            **end_to_end_json(self.end_to_end, self.first_text),
            "speedup_by_category": {k: v.to_json() for k, v in self.speedup_by_category},
            "speedup_vs_hf": self.speedup_vs_hf and self.speedup_vs_hf.to_json(),
            "acceptance_rate": self.acceptance_rate,
            "drafts_by_source": {k: asdict(v) for k, v in self.drafts_by_source.items()},
            "mean_acceptance_length": self.mean_acceptance_length,
            "acceptance_by_position": list(self.acceptance_by_position),
            "seconds_by_phase": dict(self.seconds_by_phase),
            "guarantee": self.guarantee,
            "lossless": self.lossless and self.lossless.to_json(),
            "error": self.error,
            "samples": [sample.to_json() for sample in self.samples],
        }


def end_to_end_json(later: EndToEnd | None, first: EndToEnd | None) -> dict[str, Any]:
    """The keys `end_to_end`, `end_to_end_at`, `first_text` and `first_text_at`."""
    parts = {"end_to_end": later, "first_text": first}
    found: dict[str, Any] = {}
    for key, part in parts.items():
        found |= part.to_json(key) if part else {key: None, f"{key}_at": {}}
    return found


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BenchResult(BenchSetup):
    """The table, and everything that is needed to measure it again."""

    methods: tuple[MethodResult, ...]

    def __repr__(self) -> str:
        rows = ", ".join(map(repr, self.methods))
        return f"BenchResult({len(self.workload.prompts)} prompts: {rows})"

    def to_json(self) -> dict[str, Any]:
        """The document of `bench --json`."""
        return {**self.setup_json(), "methods": [method.to_json() for method in self.methods]}


def bench(
    target: Target,
    prompts: AnyPrompts | None = None,
    methods: Sequence[str] | None = None,
    profile: Profile | None = None,
    *,
    max_new_tokens: int = 64,
    repeats: int = DEFAULT_REPEATS,
    options: SamplingOptions = GREEDY,
    memory: DraftMemory | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> BenchResult:
    """Compare methods by name; `plain` is always one of them.

    Args:
        prompts: texts, chats or token ids, or what `skipopt.prompts.load_prompts` returns, of
            which the held-out part is timed; None: the built-in set for the model. Speedups are
            reported by the category of a prompt too, where it has one.
        methods: names of `skipopt.methods.METHODS` and `skipopt.measurement.runners.PEERS`;
            `profile` is the profile's method; None: see `default_methods`.
        profile: needed by methods that draft with a mask.
        max_new_tokens: of each text; fewer where it ends or begins to repeat itself.
        repeats: how often each method decodes each prompt; even numbers balance the order.
        options: greedy, or how every method samples.
        memory: earlier texts; a method that copies from them decodes without and with them. No
            text is added.
        on_progress: called with the number of decodings done and to do.

    Raises:
        UsageError: an unknown method, repeats < 1, or a memory of another tokenizer.
        PromptError: no prompt's continuation is long enough to be timed.
        ProfileError: the profile is for another model.
    """
    if memory is not None:
        memory.check_target(target)
    names = default_methods(profile) if methods is None else methods
    runners = make_runners(target, with_profile_method(names, profile), profile, options, memory)
    given = encode_any(target, prompts)
    return bench_runners(
        target,
        runners,
        given.ids,
        max_new_tokens,
        repeats,
        device_clock(target.device),
        on_progress,
        options,
        given.categories,
    )


def default_methods(profile: Profile | None) -> list[str]:
    """The methods that are compared unless others are named."""
    return [PLAIN, *profile_methods(profile), "suffix", HF_GENERATE, HF_PROMPT_LOOKUP]


def profile_methods(profile: Profile | None) -> list[str]:
    """The profile's method, and drafts with its mask alone; none without a profile."""
    if profile is None:
        return []
    return [PROFILE_METHOD, "layer-skip"] if profile.skip_mask.skipped else [PROFILE_METHOD]


def with_profile_method(names: Sequence[str], profile: Profile | None) -> list[str]:
    """The names with the profile's method instead of `profile`.

    Raises:
        UsageError: `profile` without one.
    """
    if profile is None and PROFILE_METHOD in names:
        raise UsageError(
            "the method `profile` needs a profile, and none is given",
            hint="give one, made by `skipopt search`",
        )
    return [
        str(resolve_method(profile, None)) if name == PROFILE_METHOD else name for name in names
    ]


def bench_runners(
    target: Target,
    runners: Sequence[Runner],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    repeats: int,
    clock: Clock,
    on_progress: ProgressCallback = ignore_progress,
    options: SamplingOptions = GREEDY,
    categories: Sequence[str | None] = (),
) -> BenchResult:
    """Compare runners, one of which is named `plain` and writes the reference texts."""
    check_repeats(repeats)
    plain = next(runner for runner in runners if runner.name == PLAIN)
    workload = make_workload(
        prompts, lambda p: plain.decode(p, max_new_tokens, clock).tokens, categories
    )
    timer = Timer(runners, workload.prompts, workload.lengths, clock)
    first = first_texts(target, len(workload.prompts))
    total = (first + repeats * len(workload.prompts)) * len(runners)

    def report() -> None:
        on_progress(len(timer.first_texts) + len(timer.samples), total)

    timer.run_first_texts(first, report)
    timer.warm_up()
    timer.run(repeats, report)
    return BenchResult(
        environment=environment_of(target),
        model=model_facts(target),
        prompts_hash=hash_of(prompts),
        workload=workload,
        max_new_tokens=max_new_tokens,
        repeats=repeats,
        methods=tuple(_result(target, runner, timer, workload, options) for runner in runners),
        sampling=options,
    )


def first_texts(target: Target, prompts: int) -> int:
    """Number of prompts to decode in a fresh state; none where steps are compiled for minutes."""
    return 0 if target.runtime.step_caches.inductor else min(FIRST_TEXTS, prompts)


def _result(
    target: Target, runner: Runner, timer: Timer, workload: Workload, options: SamplingOptions
) -> MethodResult:
    lossless = None
    if runner.name not in timer.errors and runner.guarantee != "same distribution":
        own = metrics.samples_of([*timer.first_texts, *timer.samples], runner.name)
        lossless = check_texts(target, workload.compared_texts(own), options)
    return method_result(runner, timer, PLAIN, lossless, workload.by_category)


def method_result(
    runner: Runner,
    timer: Timer,
    baseline: str,
    lossless: LosslessReport | None,
    categories: Mapping[str, Collection[int]] = MappingProxyType({}),
) -> MethodResult:
    """The row of a runner: its error, or its metrics.

    Args:
        baseline: name of the runner that `speedup` is measured against.
        categories: indices of the prompts of each category.
    """
    name = runner.name
    if name in timer.errors:
        return MethodResult(name, runner.settings, error=timer.errors[name])
    own = metrics.samples_of(timer.samples, name)
    by_category = metrics.speedup_by_category(timer.samples, name, baseline, categories)
    has_hf = any(each.name == HF_GENERATE for each in timer.running)
    return MethodResult(
        name=name,
        settings=runner.settings,
        tokens_per_second=metrics.tokens_per_second(own),
        prefill_seconds=metrics.prefill_seconds(own),
        speedup=metrics.speedup(timer.samples, name, baseline),
        end_to_end=metrics.end_to_end(timer.samples, name, baseline),
        first_text=metrics.end_to_end(timer.first_texts, name, baseline),
        speedup_by_category=tuple(by_category.items()),
        speedup_vs_hf=metrics.speedup(timer.samples, name, HF_GENERATE) if has_hf else None,
        acceptance_rate=metrics.acceptance_rate(own),
        drafts_by_source=metrics.drafts_by_source(own),
        mean_acceptance_length=metrics.mean_acceptance_length(own),
        acceptance_by_position=metrics.acceptance_by_position(own),
        seconds_by_phase=metrics.seconds_by_phase(own),
        guarantee=runner.guarantee,
        lossless=lossless,
        samples=tuple(own),
    )
