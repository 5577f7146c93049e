"""From a trace and prices to tokens per second of every (γ, τ), without touching the model.

Greedy decoding is walked through as it would have gone: from each round's start the draft goes
on until γ, until its confidence falls below τ (that token included), or until the text ends;
the accepted prefix and one bonus token are taken. Where a trace holds drafts of γ tokens this is
exact; where it holds shorter ones, the later tokens of a draft are taken for as good as the last
that was scored at their place, which is a little bright. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipopt.cost_model.costs import Costs
from skipopt.cost_model.prediction import Prediction
from skipopt.masks import SkipMask
from skipopt.scoring import Trace

TAUS: tuple[float, ...] = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


def best_prediction(
    trace: Trace,
    mask: SkipMask,
    costs: Costs,
    gamma: int | None = None,
    taus: Sequence[float] = TAUS,
) -> Prediction:
    """Replay every γ the prices reach and every τ; the fastest, ties to the shorter draft.

    Args:
        gamma: look at this γ alone.
        taus: the τ to choose from.
    """
    rounds = SimulatedRounds.of(trace, len(costs.verify) - 1, taus)
    seconds = rounds.seconds(mask, costs)  # (S, T, G)
    speedups = rounds.lengths.sum() * costs.plain / seconds.sum(0)  # (T, G)
    if gamma is not None:
        speedups[:, np.arange(speedups.shape[1]) != gamma - 1] = -np.inf
    t, g = divmod(int(np.argmax(speedups)), speedups.shape[1])
    drafted, accepted = rounds.counts(t, g)
    return Prediction(
        float(speedups[t, g]),
        tuple((rounds.lengths * costs.plain / seconds[:, t, g]).tolist()),
        g + 1,
        taus[t],
        accepted / drafted if drafted else 0.0,
        trace.matchness,
    )


@dataclass(frozen=True, slots=True)
class SimulatedRounds:
    """The round that would begin at each place of each text, for every (τ, γ).

    Attributes:
        drafted, accepted: tokens.  # (M, S, T, G)
        lengths: of the texts.  # (S,)
        taus: the τ.  # (T,)
    """

    drafted: Integers
    accepted: Integers
    lengths: Integers
    taus: Sequence[float]

    @classmethod
    def of(cls, trace: Trace, longest: int, taus: Sequence[float]) -> SimulatedRounds:
        """For γ = 1 … `longest`."""
        matched: Flags = _drafts(trace.matched, longest)  # (M, S, G)
        sure: NDArray[np.float32] = _drafts(trace.confidence, longest)
        runs = _first(~matched)  # accepted if the draft were endless  (M, S)
        unsure = sure[:, :, None, :] < np.asarray(taus)[:, None]
        stops = _first(unsure) + 1  # drafts until the unsure one, it included  (M, S, T)
        room = trace.lengths - np.arange(len(runs))[:, None] - 1  # (M, S)
        gammas = np.arange(1, longest + 1)
        drafted = np.minimum(gammas, stops[..., None])
        drafted = np.maximum(np.minimum(drafted, room[..., None, None]), 0)
        accepted = np.minimum(drafted, runs[..., None, None])
        return cls(drafted, accepted, trace.lengths, tuple(taus))

    def seconds(self, mask: SkipMask, costs: Costs) -> Floats:
        """Of each text.  # (S, T, G)"""
        verify = np.asarray(costs.verify)
        step = np.array([costs.draft_step(mask, tau) for tau in self.taus])
        return self._sum(self.drafted * step[:, None] + verify[self.drafted])

    def counts(self, t: int, g: int) -> tuple[int, int]:
        """Drafted and accepted tokens of all texts, for one (τ, γ)."""
        one = np.s_[:, :, t : t + 1, g : g + 1]
        chosen = SimulatedRounds(
            self.drafted[one], self.accepted[one], self.lengths, self.taus[t : t + 1]
        )
        drafted, accepted = (chosen._sum(c) for c in (chosen.drafted, chosen.accepted))
        return int(drafted.sum()), int(accepted.sum())

    def _sum(self, cost: NDArray[Any]) -> Floats:
        """What the rounds of each text cost from its first place on.  # (S, T, G)

        From the last place backwards: a round's own cost and that of the round which follows it.
        """
        count = len(cost)
        total = np.zeros((count + 1, *cost.shape[1:]))
        alive = np.arange(count)[:, None] < self.lengths
        cost = cost * alive[..., None, None]
        following = np.minimum(np.arange(count)[:, None, None, None] + self.accepted + 1, count)
        for place in range(count - 1, -1, -1):
            rest = np.take_along_axis(total, following[place][None], 0)[0]
            total[place] = cost[place] + rest
        first: Floats = total[0]
        return first


def _drafts(values: NDArray[Any], longest: int) -> NDArray[Any]:
    """Of every token of the draft that begins at a place.  # (S, M, J) -> (M, S, longest)

    Beyond the J tokens that were scored: the last of the draft that began nearer.
    """
    _, rows, steps = values.shape
    token = np.arange(longest)
    depth = np.minimum(token, steps - 1)
    start = np.minimum(np.arange(rows)[:, None] + token - depth, rows - 1)
    return values[:, start, depth].swapaxes(0, 1)


def _first(event: Flags) -> Integers:
    """Along the last axis, how many come before the first event; all, if there is none."""
    before: Integers = np.where(event.any(-1), event.argmax(-1), event.shape[-1])
    return before
