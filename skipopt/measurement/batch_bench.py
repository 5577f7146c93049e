"""Methods side by side on batches: speed, and whether each text is that of its prompt alone."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from skipopt.decoding.batch import BATCH_METHODS, BatchDecoding, BatchRequest, batch_method
from skipopt.decoding.setup import make_decoding, same_tokens
from skipopt.errors import UsageError
from skipopt.measurement.bench_setup import BenchSetup, check_repeats
from skipopt.measurement.lossless import LosslessReport, check_texts
from skipopt.measurement.methods_table import (
    PROFILE_METHOD,
    profile_methods,
    with_profile_method,
)
from skipopt.measurement.metrics import median_speed, paired_by_index
from skipopt.measurement.prompts import AnyPrompts, encode_any
from skipopt.measurement.provenance import environment_of, hash_of
from skipopt.measurement.runners import GREEDY, PLAIN, SkipoptRunner, with_plain
from skipopt.measurement.timing import (
    DEFAULT_REPEATS,
    Clock,
    ProgressCallback,
    device_clock,
    ignore_progress,
    run_order,
)
from skipopt.measurement.workload import Workload, make_workload
from skipopt.methods import parse_method
from skipopt.profile.model_identity import model_facts
from skipopt.rounds import Round, Statistics
from skipopt.stats import Interval, ratio_interval

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.profile import Profile
    from skipopt.sampling import SamplingOptions

Texts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class BatchSample:
    """One batch decoded by one method.

    Attributes:
        batch: number of the batch.
        prompts: indices of its prompts.
        texts: their new tokens.
        seconds: of decoding, without the prefills and the capture of steps.
        rounds: of all texts.
        forwards: pairs (rows, seconds) of the target's forwards.
        pauses: how often drafting was paused.
    """

    method: str
    batch: int
    repeat: int
    prompts: tuple[int, ...]
    texts: Texts
    seconds: float
    prefill_seconds: float
    rounds: tuple[Round, ...]
    forwards: tuple[tuple[int, float], ...]
    pauses: int

    @property
    def tokens(self) -> int:
        """New tokens of all texts."""
        return sum(map(len, self.texts))

    @property
    def seconds_per_token(self) -> float:
        return self.seconds / self.tokens

    def to_json(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "repeat": self.repeat,
            "prompts": list(self.prompts),
            "tokens": self.tokens,
            "prefill_seconds": self.prefill_seconds,
            "decode_seconds": self.seconds,
            "pauses": self.pauses,
        }


@dataclass(frozen=True, slots=True)
class BatchMethodResult:
    """One row of the table.

    Attributes:
        tokens_per_second: of all texts of a batch together, prefills excluded.
        speedup: over plain decoding of the same batches.
        acceptance_rate: None where nothing was drafted.
        mean_acceptance_length: tokens of a text per target forward.
        pauses: of all samples.
        lossless: each text compared with that of plain decoding of its prompt alone; None if only
            the distribution is the same.
        costs: (rows, median seconds of the target's forward over them).
    """

    name: str
    tokens_per_second: float
    speedup: Interval
    acceptance_rate: float | None
    mean_acceptance_length: float
    pauses: int
    lossless: LosslessReport | None
    costs: tuple[tuple[int, float], ...]
    samples: tuple[BatchSample, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "tokens_per_second": self.tokens_per_second,
            "speedup": self.speedup.to_json(),
            "acceptance_rate": self.acceptance_rate,
            "mean_acceptance_length": self.mean_acceptance_length,
            "pauses": self.pauses,
            "lossless": self.lossless and self.lossless.to_json(),
            "verify_seconds_by_rows": {str(rows): seconds for rows, seconds in self.costs},
            "samples": [sample.to_json() for sample in self.samples],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchBenchResult(BenchSetup):
    """The table, and everything that is needed to measure it again."""

    batch_size: int
    methods: tuple[BatchMethodResult, ...]

    def to_json(self) -> dict[str, Any]:
        """The document of `bench --batch-size N --json`."""
        return {
            **self.setup_json(),
            "batch_size": self.batch_size,
            "methods": [method.to_json() for method in self.methods],
        }


@dataclass(frozen=True, slots=True)
class BatchRunner:
    """A method that decodes batches."""

    target: Target
    name: str
    profile: Profile | None = None
    sampling: SamplingOptions = GREEDY

    @property
    def same_tokens(self) -> bool:
        """Whether its texts are those of plain decoding by construction."""
        spec = parse_method(self.name)
        setup = make_decoding(self.target, spec, self.profile, self.sampling)
        return same_tokens(setup.verifier, self.sampling)

    def decode(
        self, workload: Workload, prompts: Sequence[int], batch: int = 0, repeat: int = 0
    ) -> BatchSample:
        """Decode prompts of the workload together, each to the length of its reference."""
        requests = [
            BatchRequest(workload.prompts[i], len(workload.references[i]), self.sampling)
            for i in prompts
        ]
        with self.target.runtime.capture_immediately():
            decoding = BatchDecoding(
                self.target,
                requests,
                profile=self.profile,
                method=self.name,
                batch_size=len(requests),
            )
            texts: list[list[int]] = [[] for _ in requests]
            rounds: list[Round] = []
            for found in decoding:
                for number, each in found.items():
                    texts[number] += each.emitted
                    rounds.append(each)
        made = decoding.statistics
        return BatchSample(
            self.name,
            batch,
            repeat,
            tuple(prompts),
            tuple(map(tuple, texts)),
            made.seconds,
            made.prefill_seconds,
            tuple(rounds),
            tuple(made.round_seconds),
            made.pauses,
        )


def default_batch_methods(profile: Profile | None) -> list[str]:
    """The methods that are compared unless others are named."""
    own = profile_methods(profile)
    if profile is not None and not _decodes_batches(profile):
        own.remove(PROFILE_METHOD)
    return [PLAIN, *own, "prompt-lookup", "suffix"]


def _decodes_batches(profile: Profile) -> bool:
    """Whether its method does; if speculation is off, that is plain decoding."""
    return not profile.enabled or parse_method(profile.drafting.method).name in BATCH_METHODS


def bench_batches(
    target: Target,
    prompts: AnyPrompts | None = None,
    methods: Sequence[str] | None = None,
    profile: Profile | None = None,
    *,
    batch_size: int = 8,
    max_new_tokens: int = 64,
    repeats: int = DEFAULT_REPEATS,
    options: SamplingOptions = GREEDY,
    on_progress: ProgressCallback = ignore_progress,
) -> BatchBenchResult:
    """Compare methods by name on batches of prompts; `plain` is always one of them.

    Args:
        prompts, methods, profile, max_new_tokens, repeats, on_progress: see `skipopt.bench`.
        batch_size: prompts that are decoded together; the last batch has those that are left.
        options: greedy, or how every method samples, with the same seed for every text.

    Raises:
        UsageError: a method that does not decode batches, or repeats or batch_size below 1.
        ModelError: the model cannot decode batches.
        PromptError, ProfileError: see `skipopt.bench`.
    """
    check_repeats(repeats)
    names = default_batch_methods(profile) if methods is None else list(methods)
    runners = batch_runners(target, with_profile_method(names, profile), profile, options)
    given = encode_any(target, prompts)
    workload = plain_workload(target, given.ids, max_new_tokens, options)
    batches = in_batches(len(workload.prompts), batch_size)
    samples = time_batches(runners, workload, batches, repeats, on_progress)
    return BatchBenchResult(
        environment=environment_of(target),
        model=model_facts(target),
        prompts_hash=hash_of(given.ids),
        workload=workload,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        repeats=repeats,
        methods=tuple(batch_result(each, workload, samples) for each in runners),
        sampling=options,
    )


def batch_runners(
    target: Target, names: Sequence[str], profile: Profile | None, options: SamplingOptions
) -> list[BatchRunner]:
    """The runners of these methods; `plain` is put first if it is missing."""
    return [
        BatchRunner(target, str(batch_method(profile, name)), profile, options)
        for name in with_plain(names)
    ]


def plain_workload(
    target: Target,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    options: SamplingOptions = GREEDY,
    clock: Clock | None = None,
) -> Workload:
    """The prompts with their plain continuations, decoded one at a time."""
    plain = SkipoptRunner(target, parse_method(PLAIN), None, options)
    clock = clock or device_clock(target.device)
    return make_workload(prompts, lambda p: plain.decode(p, max_new_tokens, clock).tokens)


def in_batches(count: int, batch_size: int) -> list[tuple[int, ...]]:
    """Indices of the prompts of each batch."""
    if batch_size < 1:
        raise UsageError(f"batch-size must be 1 or more, not {batch_size}")
    starts = range(0, count, batch_size)
    return [tuple(range(start, min(start + batch_size, count))) for start in starts]


def time_batches(
    runners: Sequence[BatchRunner],
    workload: Workload,
    batches: Sequence[tuple[int, ...]],
    repeats: int,
    on_progress: ProgressCallback = ignore_progress,
    most_seconds: float = math.inf,
) -> list[BatchSample]:
    """Decode every batch with every runner, interleaved as `run_order` says.

    Args:
        most_seconds: after which no batch is begun, once each was decoded by each runner.
    """
    began = time.perf_counter()
    for runner in runners:
        runner.decode(workload, batches[0])
    samples: list[BatchSample] = []
    total = repeats * len(batches) * len(runners)
    for repeat in range(repeats):
        for number, prompts in enumerate(batches):
            if repeat and time.perf_counter() - began > most_seconds:
                return samples
            for i in run_order(len(runners), number, repeat):
                samples.append(runners[i].decode(workload, prompts, number, repeat))
                on_progress(len(samples), total)
    return samples


def batch_result(
    runner: BatchRunner, workload: Workload, samples: Sequence[BatchSample]
) -> BatchMethodResult:
    """The row of a runner."""
    own = [sample for sample in samples if sample.method == runner.name]
    total = Statistics.of(each for sample in own for each in sample.rounds)
    return BatchMethodResult(
        runner.name,
        median_speed((each.batch, each.tokens, each.seconds) for each in own),
        _speedup(own, [sample for sample in samples if sample.method == PLAIN]),
        total.acceptance_rate,
        total.mean_acceptance_length,
        sum(sample.pauses for sample in own),
        _lossless(runner, workload, own) if runner.same_tokens else None,
        _costs(own),
        tuple(own),
    )


def _speedup(own: Sequence[BatchSample], plain: Sequence[BatchSample]) -> Interval:
    """Plain seconds per token ÷ own ones, paired by batch and repeat."""
    pairs = paired_by_index(
        {(each.batch, each.repeat): each for each in own},
        {(each.batch, each.repeat): each for each in plain},
        lambda sample, other: math.log(other.seconds_per_token / sample.seconds_per_token),
    )
    return ratio_interval(list(pairs.values()))


def _lossless(
    runner: BatchRunner, workload: Workload, samples: Sequence[BatchSample]
) -> LosslessReport:
    texts = [
        workload.compared_text(prompt, text)
        for sample in samples
        for prompt, text in zip(sample.prompts, sample.texts, strict=True)
    ]
    return check_texts(runner.target, texts, runner.sampling)


def _costs(samples: Sequence[BatchSample]) -> tuple[tuple[int, float], ...]:
    by_rows: dict[int, list[float]] = {}
    for sample in samples:
        for rows, seconds in sample.forwards:
            by_rows.setdefault(rows, []).append(seconds)
    return tuple((rows, median(by_rows[rows])) for rows in sorted(by_rows))
