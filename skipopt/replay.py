"""From a trace and prices to tokens per second of every (γ, τ), without touching the model.

Greedy decoding is walked through as it would have gone: from each round's start the draft goes
on until γ, until its confidence falls below τ (that token included), or until the text ends;
the accepted prefix and one bonus token are taken. Drafts after the first see the draft's own
keys in reality, which a trace does not hold: the prediction is a little bright, and the best
few are therefore confirmed by decoding. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipopt.masks import SkipMask
from skipopt.runtime.prices import Prices
from skipopt.scoring import Trace

TAUS: tuple[float, ...] = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best (γ, τ) for a mask: speedup against plain steps, acceptance rate per draft."""

    speedup: float
    gamma: int
    tau: float
    acceptance_rate: float


def best_prediction(
    trace: Trace,
    mask: SkipMask,
    prices: Prices,
    gamma: int | None = None,
    taus: Sequence[float] = TAUS,
) -> Prediction:
    """Replay every γ the prices reach and every τ; the fastest, ties to the shorter draft.

    Args:
        gamma: look at this γ alone.
        taus: the τ to choose from.
    """
    drafted, accepted, seconds, tokens = replay(trace, mask, prices, taus)
    speedups = tokens * prices.plain / seconds  # (T, G)
    if gamma is not None:
        speedups[:, np.arange(speedups.shape[1]) != gamma - 1] = -np.inf
    row, column = divmod(int(np.argmax(speedups)), speedups.shape[1])
    best = (row, column)
    rate = accepted[best] / drafted[best] if drafted[best] else 0.0
    return Prediction(float(speedups[best]), column + 1, taus[row], float(rate))


def replay(
    trace: Trace, mask: SkipMask, prices: Prices, taus: Sequence[float]
) -> tuple[Integers, Integers, NDArray[np.float64], int]:
    """Drafted and accepted tokens and seconds for every (τ, γ); and the tokens of the texts.

    # (T, G), (T, G), (T, G), number
    """
    longest = len(prices.verify) - 1
    gammas = np.arange(1, longest + 1)
    lengths = trace.valid.sum(1)  # (S,)
    runs = _distance_to(~trace.matched)  # accepted if the draft were endless  (S, M)
    step = prices.draft_step(mask)
    verify = np.asarray(prices.verify)
    shape = (len(taus), longest)
    drafted, accepted = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    seconds = np.zeros(shape)
    for t, tau in enumerate(taus):
        stops = (
            _distance_to(trace.confidence < tau) + 1
        )  # drafts until the unsure one, it included
        place = np.zeros((longest, len(lengths)), np.int64)  # (G, S)
        while (alive := place < lengths).any():
            here = np.minimum(place, np.maximum(lengths - 1, 0))
            text = np.arange(len(lengths))
            room = lengths - here - 1
            count = np.minimum(np.minimum(gammas[:, None], stops[text, here]), room) * alive
            good = np.minimum(runs[text, here], count)
            seconds[t] += ((count * step + verify[count]) * alive).sum(1)
            drafted[t] += count.sum(1)
            accepted[t] += good.sum(1)
            place = place + (good + 1) * alive
    return drafted, accepted, seconds, int(lengths.sum())


def _distance_to(event: NDArray[np.bool_]) -> Integers:
    """At each position, steps to the next event at or after it (far, if none).  # (S, M)"""
    count = event.shape[1]
    index = np.where(event, np.arange(count), 2 * count + 64)
    following = np.minimum.accumulate(index[:, ::-1], axis=1)[:, ::-1]
    distance: Integers = following - np.arange(count)
    return distance
