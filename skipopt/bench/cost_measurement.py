"""What sublayers, rounds and chains cost: rounds under four masks, of every draft length.

A draft step right after a verification, and a verification right after drafts, find other
weights in the processor's caches than when each is timed alone; and a round has costs of its own.
So whole rounds of the decoding loop are timed, their ways interleaved, and medians split into
prices. Knows nothing of which mask is good.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from statistics import median, quantiles

from skipopt.bench.timed_rounds import (
    PLAIN,
    Clock,
    Draft,
    Times,
    chain_drafter,
    most_tokens,
    time_rounds,
)
from skipopt.cost_model.costs import Costs
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import ModelError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime.draft_mode import quantized_weights
from skipopt.runtime.engine import Engine

FEWEST_CYCLES = 5  # in four of them each mask meets each draft length; the first warms up
KEPT = ((False, False), (True, False), (False, True), (True, True))  # attention, MLP


def measure_costs(
    target: Target,
    context: Sequence[int],
    longest: int,
    seconds: float = 4.0,
    clock: Clock = time.perf_counter,
    draft_config: DraftConfig = UNCHANGED,
) -> Costs:
    """Time rounds that begin after `context`.

    Args:
        context: a text; cut off where the target's limit leaves too little room behind it.
        longest: tokens of the longest verification that is priced, at least 2.
        seconds: about how long to go on measuring.
        levers: what else drafts are made with, of those that there are here.

    Raises:
        ModelError: the target's context is too short.
    """
    most = most_tokens(_cycle(0, longest - 1))
    context = context[: max(1, target.context_limit - most)]
    engine = Engine(target, min(target.context_limit, len(context) + most) + longest)
    timed: dict[Draft, list[Times]] = defaultdict(list)
    # Copies are made now, and not in a round.
    quantized_weights(target, SkipMask.empty(target.depth), draft_config.weight_bits)
    make = partial(chain_drafter, target, draft_config)
    clock = target.runtime.clock_without_capture(clock)
    began, cycles = clock(), 0
    with target.runtime.capture_immediately():
        while cycles < FEWEST_CYCLES or clock() - began < seconds:
            drafts = _cycle(cycles, longest - 1)
            for draft, times in time_rounds(make, engine, context, drafts, clock):
                if cycles:
                    timed[draft].append(times)
            cycles += 1
    if any(draft not in timed for draft in _cycle(0, longest - 1)):
        raise ModelError(
            f"a context of {target.context_limit} tokens is too short to measure drafts of "
            f"{longest - 1} in",
            hint="fix shorter drafts with --gamma",
        )
    return _split(timed, target.depth, longest, len(context))


def _cycle(number: int, longest: int) -> list[Draft]:
    """Every draft length once; over four cycles, with every mask. Plain rounds between."""
    thinnest = Draft(longest)
    lengths = [Draft(g, *KEPT[(g + number) % len(KEPT)]) for g in range(1, longest + 1)]
    return [PLAIN, thinnest, PLAIN, *lengths, PLAIN, Draft(longest, sure=True)]


def _split(timed: dict[Draft, list[Times]], depth: int, longest: int, context: int) -> Costs:
    step = {kept: _slope(timed, kept) for kept in KEPT}
    nothing, attention_only, mlp_only, everything = (step[kept] for kept in KEPT)
    attention = (everything - mlp_only) / depth
    mlp = (everything - attention_only) / depth
    verify: list[list[float]] = [[] for _ in range(longest)]
    for draft, times in timed.items():
        own = draft.gamma * step[draft.attention, draft.mlp]
        if not draft.sure:
            verify[draft.gamma] += [each.whole - own for each in times]
    one, *more = (median(seconds) for seconds in verify)
    unsure, sure = (
        median(times.draft for times in timed[Draft(longest - 1, sure=sure)])
        for sure in (False, True)
    )
    low, _, high = quantiles(verify[0], n=4)
    return Costs(
        overhead=nothing,
        attention=attention,
        mlp=mlp,
        layer_overhead=(everything - nothing) / depth - attention - mlp,
        # Never less than a plain step: a promise made of noise would cost a whole search.
        verify=(one, *(max(one, seconds) for seconds in isotonic(more))),
        confidence=max(0.0, sure - unsure) / (longest - 1),
        context=context,
        relative_iqr=(high - low) / 2 / median(verify[0]),
    )


def _slope(timed: dict[Draft, list[Times]], kept: tuple[bool, bool]) -> float:
    """Seconds of one draft step more, by the median of all slopes between two drafts (Theil–Sen).

    What a draft costs once, however long, is the round's.
    """
    from scipy.stats import theilslopes

    drafts = [d for d in timed if (d.attention, d.mlp) == kept and d.gamma and not d.sure]
    points = [(d.gamma, times.draft) for d in drafts for times in timed[d]]
    lengths, seconds = zip(*points, strict=True)
    if len(set(lengths)) == 1:
        return float(median(seconds) / lengths[0])
    return float(theilslopes(seconds, lengths).slope)


def isotonic(seconds: Sequence[float]) -> list[float]:
    """The nearest series in which more tokens never cost less: few samples each, much noise."""
    from scipy.optimize import isotonic_regression

    return [float(each) for each in isotonic_regression(seconds).x]
