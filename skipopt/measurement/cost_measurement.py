"""Measures what sublayers, verification rounds and drafts of every length cost.

Draft steps and verifications that alternate find other weights in the processor's caches than
repetitions of one of them, and a round has an overhead of its own. Therefore whole rounds of the
decoding loop are timed, with four masks and every draft length interleaved, and their medians are
split into costs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from math import inf
from statistics import median, quantiles

from skipopt.cost_model.costs import Costs
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import ModelError
from skipopt.masks import SkipMask
from skipopt.measurement.timed_rounds import (
    PLAIN_ROUND,
    UNTIMED_ROUND,
    DraftSpec,
    RoundTimes,
    chain_drafter,
    max_new_tokens,
    time_rounds,
)
from skipopt.measurement.timing import Clock
from skipopt.models.target import Target
from skipopt.runtime.draft_mode import draft_weights
from skipopt.runtime.engine import Engine

# A warm-up, and four cycles that combine each mask with each draft length. Where the time is
# short, one cycle after the warm-up has to do, or as many as contain every mask.
MIN_CYCLES = 5
# Of small models, whose cycles are short: medians of so many are as good as of more.
MAX_CYCLES = 17

Timed = dict[DraftSpec, list[RoundTimes]]


def measure_costs(
    target: Target,
    context: Sequence[int],
    max_verified: int,
    seconds: float = 4.0,
    clock: Clock = time.perf_counter,
    draft_config: DraftConfig = UNCHANGED,
    most: float = inf,
) -> Costs:
    """Time rounds after `context`.

    Args:
        context: token ids; cut at the end if the model's context has no room for the rounds.
        max_verified: tokens of the longest verification to measure, 2 or more.
        seconds: approximate duration of the measurement, which ends after `MAX_CYCLES` cycles.
        draft_config: what drafts use besides a mask, as far as this machine supports it.
        most: seconds after which no cycle begins that is not needed for a result.

    Raises:
        ModelError: the target's context is too short.
    """
    gamma, masks = max_verified - 1, _masks(target.depth)
    began = clock()
    plain = (UNTIMED_ROUND, PLAIN_ROUND) if target.keeps_states else (PLAIN_ROUND,)
    room = max_new_tokens(_cycle(0, gamma, masks, plain))
    context = context[: max(1, target.context_limit - room)]
    capacity = min(target.context_limit, len(context) + room) + max_verified
    engine = Engine(target, capacity)
    # Copies of weights are made now, so that no round waits for them.
    draft_weights(target, SkipMask.empty(target.depth), draft_config)
    timed: Timed = defaultdict(list)
    make = partial(chain_drafter, target, draft_config)
    timing = target.runtime.clock_without_capture(clock)
    timing_began, cycles = timing(), 0

    def goes_on() -> bool:
        complete = cycles > 1 and {spec.mask for spec in timed if not spec.confidence} > {*masks}
        if complete and (clock() - began) * (cycles + 1) > most * cycles:
            return False
        lasts = cycles < MAX_CYCLES and timing() - timing_began < seconds
        return cycles < MIN_CYCLES or lasts

    with target.runtime.capture_immediately():
        while goes_on():
            specs = _cycle(cycles, gamma, masks, plain)
            for spec, times in time_rounds(make, engine, context, specs, timing):
                if cycles:
                    timed[spec].append(times)
            cycles += 1
    specs = [spec for number in range(1, cycles) for spec in _cycle(number, gamma, masks, plain)]
    if {spec for spec in specs if spec.timed} - timed.keys():
        raise ModelError(
            f"a context of {target.context_limit} tokens is too short to measure drafts of "
            f"{gamma} in",
            hint="fix shorter drafts with --gamma",
        )
    return _costs(timed, masks, max_verified, len(context))


def _masks(depth: int) -> list[SkipMask]:
    """Four masks: keep no sublayer, all attention, all MLPs, every sublayer."""
    every = range(depth)
    return [
        SkipMask.of(depth, every, every),
        SkipMask.of(depth, (), every),
        SkipMask.of(depth, every, ()),
        SkipMask.empty(depth),
    ]


def _cycle(
    number: int, gamma: int, masks: Sequence[SkipMask], plain: Sequence[DraftSpec]
) -> list[DraftSpec]:
    """The rounds of one cycle: each draft length up to `gamma` once, and plain rounds.

    The mask for a draft length changes with the cycle `number`: all masks in four cycles.

    Args:
        plain: a plain round, and what prepares it.
    """
    shortest = DraftSpec(gamma, masks[0])
    with_confidence = DraftSpec(gamma, masks[0], confidence=True)
    lengths = [DraftSpec(g, masks[(g + number) % len(masks)]) for g in range(1, gamma + 1)]
    return [*plain, shortest, *plain, *lengths, *plain, with_confidence]


def _costs(timed: Timed, masks: Sequence[SkipMask], max_verified: int, context: int) -> Costs:
    """The costs of parts of a round, from the medians of whole rounds."""
    depth = masks[0].layers
    step = {mask: _step_seconds(timed, mask) for mask in masks}
    nothing, attention_only, mlp_only, everything = (step[mask] for mask in masks)
    attention = (everything - mlp_only) / depth
    mlp = (everything - attention_only) / depth
    rounds = _round_seconds(timed, step, max_verified)
    one, *more = (median(seconds) for seconds in rounds)
    low, _, high = quantiles(rounds[0], n=4)
    return Costs(
        overhead=nothing,
        attention=attention,
        mlp=mlp,
        layer_overhead=(everything - nothing) / depth - attention - mlp,
        # At least a plain step; noise below it would predict speedups that do not exist.
        verify=(one, *(max(one, seconds) for seconds in isotonic(more))),
        confidence=_confidence_seconds(timed, masks[0], max_verified - 1),
        context=context,
        relative_iqr=(high - low) / 2 / one,
    )


def _round_seconds(
    timed: Timed, step: dict[SkipMask, float], max_verified: int
) -> list[list[float]]:
    """Seconds of rounds without their draft steps, by the number of drafted tokens."""
    seconds: list[list[float]] = [[] for _ in range(max_verified)]
    for spec, times in timed.items():
        drafting = spec.gamma * step[spec.mask] if spec.mask is not None else 0.0
        if not spec.confidence:
            seconds[spec.gamma] += [each.total - drafting for each in times]
    return seconds


def _confidence_seconds(timed: Timed, mask: SkipMask, gamma: int) -> float:
    """Seconds that computing the confidence adds to a draft step."""
    without, with_confidence = (
        median(times.draft for times in timed[DraftSpec(gamma, mask, confidence=confidence)])
        for confidence in (False, True)
    )
    return max(0.0, with_confidence - without) / gamma


def _step_seconds(timed: Timed, mask: SkipMask) -> float:
    """Seconds of one more draft step: the median slope between any two drafts (Theil–Sen).

    The part of a draft's cost that does not depend on its length counts as part of the round.
    """
    from scipy.stats import theilslopes

    specs = [spec for spec in timed if spec.mask == mask and not spec.confidence]
    points = [(spec.gamma, times.draft) for spec in specs for times in timed[spec]]
    lengths, seconds = zip(*points, strict=True)
    if len(set(lengths)) == 1:
        return float(median(seconds) / lengths[0])
    return float(theilslopes(seconds, lengths).slope)


def isotonic(seconds: Sequence[float]) -> list[float]:
    """The nondecreasing sequence with the least squared distance: more tokens never cost less."""
    from scipy.optimize import isotonic_regression

    return [float(each) for each in isotonic_regression(seconds).x]
