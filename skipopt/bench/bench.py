"""Every method side by side on the same prompts: times, and whether the texts are the same.

Knows nothing of where prompts come from, or of how a result is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from skipopt.bench import metrics
from skipopt.bench.lossless import ComparedText, LosslessReport, judge_texts
from skipopt.bench.provenance import environment_of, hash_of
from skipopt.bench.runners import GREEDY, HF_GENERATE, PLAIN, make_runners
from skipopt.bench.timing import (
    Clock,
    Progress,
    Promise,
    Runner,
    Sample,
    Timer,
    device_clock,
    unseen,
)
from skipopt.bench.workload import Workload, make_workload
from skipopt.errors import UsageError
from skipopt.profile.document import model_facts
from skipopt.stats import Interval

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.profile import Profile
    from skipopt.sampling import SamplingOptions


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One row. Figures are None where they cannot be told, all of them with an `error`.

    Attributes:
        settings: what the method ran with: mask, γ and τ, or arguments of `generate`.
        tokens_per_second: of decoding alone.
        prefill_seconds: median over samples.
        speedup: against skipopt's own plain decoding.
        speedup_vs_hf: against `hf-generate`; None where that was not run.
        promise: how the text stands to plain decoding's by construction.
        lossless: how it does by comparison; None where it is only distributed alike.
    """

    name: str
    settings: Mapping[str, Any]
    tokens_per_second: float | None = None
    prefill_seconds: float | None = None
    speedup: Interval | None = None
    speedup_vs_hf: Interval | None = None
    acceptance_rate: float | None = None
    mean_acceptance_length: float | None = None
    promise: Promise | None = None
    lossless: LosslessReport | None = None
    samples: tuple[Sample, ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "tokens_per_second": self.tokens_per_second,
            "prefill_seconds": self.prefill_seconds,
            "speedup": self.speedup and self.speedup.to_json(),
            "speedup_vs_hf": self.speedup_vs_hf and self.speedup_vs_hf.to_json(),
            "acceptance_rate": self.acceptance_rate,
            "block_efficiency": self.mean_acceptance_length,
            "promise": self.promise,
            "lossless": self.lossless and self.lossless.to_json(),
            "error": self.error,
            "samples": [sample.to_json() for sample in self.samples],
        }


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What `bench` found, and all that is needed to repeat it."""

    environment: Mapping[str, Any]
    model: Mapping[str, Any]
    prompts_hash: str
    workload: Workload
    max_new_tokens: int
    repeats: int
    methods: tuple[MethodResult, ...]
    sampling: SamplingOptions = GREEDY

    def to_json(self) -> dict[str, Any]:
        """The document of `bench --json`."""
        return {
            "environment": dict(self.environment),
            "model": dict(self.model),
            "prompts": {"hash": self.prompts_hash, **self.workload.to_json()},
            "max_new_tokens": self.max_new_tokens,
            "repeats": self.repeats,
            "sampling": asdict(self.sampling),
            "methods": [method.to_json() for method in self.methods],
        }


def bench(
    target: Target,
    prompts: Sequence[Sequence[int]],
    methods: Sequence[str],
    profile: Profile | None = None,
    *,
    max_new_tokens: int = 64,
    repeats: int = 4,
    options: SamplingOptions = GREEDY,
    on_progress: Progress = unseen,
) -> BenchResult:
    """Compare methods by name, `plain` always among them.

    Args:
        prompts: token ids of each prompt.
        methods: of `generation.METHODS` and `contenders.PEERS`.
        profile: needed by `layer-skip`.
        max_new_tokens: tokens of each text; less where it ends or loops before.
        repeats: how often each method decodes each prompt; even, so that orders balance.
        options: greedy, or how every method samples.
        on_progress: called with decodings done and in all.

    Raises:
        UsageError: an unknown method, or repeats < 1.
        PromptError: no prompt's continuation is long enough to be timed.
        ProfileError: the profile is for another model.
    """
    contenders = make_runners(target, methods, profile, options)
    clock = device_clock(target.device)
    return compare(
        target, contenders, prompts, max_new_tokens, repeats, clock, on_progress, options
    )


def compare(
    target: Target,
    contenders: Sequence[Runner],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    repeats: int,
    clock: Clock,
    on_progress: Progress = unseen,
    options: SamplingOptions = GREEDY,
) -> BenchResult:
    """Compare contenders, one of which is named `plain` and writes the reference texts."""
    if repeats < 1:
        raise UsageError(f"repeats must be 1 or more, not {repeats}")
    plain = next(c for c in contenders if c.name == PLAIN)
    workload = make_workload(prompts, lambda p: plain.decode(p, max_new_tokens, clock).tokens)
    timer = Timer(contenders, workload.prompts, workload.lengths, clock)
    total = repeats * len(workload.prompts) * len(contenders)
    timer.warm_up()
    for _ in range(repeats):
        timer.run_repeat(lambda: on_progress(len(timer.samples), total))
    return BenchResult(
        environment=environment_of(target),
        model=model_facts(target),
        prompts_hash=hash_of(prompts),
        workload=workload,
        max_new_tokens=max_new_tokens,
        repeats=repeats,
        methods=tuple(_row(target, each, timer, workload, options) for each in contenders),
        sampling=options,
    )


def _row(
    target: Target,
    contender: Runner,
    timer: Timer,
    workload: Workload,
    options: SamplingOptions,
) -> MethodResult:
    name = contender.name
    if name in timer.errors:
        return MethodResult(name, contender.settings, error=timer.errors[name])
    own = metrics.samples_of(timer.samples, name)
    compared = None
    if contender.promise != "same distribution":
        compared = judge_texts(target, texts_of(own, workload), options)
    has_hf = any(c.name == HF_GENERATE for c in timer.contenders if c.name not in timer.errors)
    return MethodResult(
        name=name,
        settings=contender.settings,
        tokens_per_second=metrics.tokens_per_second(own),
        prefill_seconds=metrics.prefill_seconds(own),
        speedup=metrics.speedup(timer.samples, name, PLAIN),
        speedup_vs_hf=metrics.speedup(timer.samples, name, HF_GENERATE) if has_hf else None,
        acceptance_rate=metrics.acceptance_rate(own),
        mean_acceptance_length=metrics.mean_acceptance_length(own),
        promise=contender.promise,
        lossless=compared,
        samples=tuple(own),
    )


def texts_of(samples: Sequence[Sample], workload: Workload) -> list[ComparedText]:
    """Each sample's text beside the reference, to be judged."""
    prompts, references = workload.prompts, workload.references
    return [
        ComparedText(prompts[s.prompt], references[s.prompt], s.decoding.tokens) for s in samples
    ]
