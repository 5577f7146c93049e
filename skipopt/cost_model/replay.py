"""Predict tokens per second for every (γ, τ) from a trace and costs, without running the model.

Greedy decoding is simulated. From the start of each round the draft goes on until γ tokens, until
its confidence falls below τ (that token included), or until the text ends; the accepted prefix and
one token of the target's own are emitted. This is exact where the trace holds drafts of γ tokens.
Where its drafts are shorter, later tokens take the result of the last scored token at the same
position of the text, which is optimistic.
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
    """Replay every γ that `costs` reach with every τ, and take the fastest.

    Ties go to the smaller γ and the lower τ.

    Args:
        trace: of `mask`.
        gamma: consider this γ only.
        taus: the τ to choose from.
    """
    longest = len(costs.verify) - 1
    rounds = SimulatedRounds.of(trace, range(1, longest + 1), taus)
    seconds = rounds.seconds(mask, costs)  # (S, T, G)
    speedups = rounds.lengths.sum() * costs.plain / seconds.sum(0)  # (T, G)
    if gamma is not None:
        speedups[:, np.arange(longest) != gamma - 1] = -np.inf
    t, g = divmod(int(np.argmax(speedups)), longest)
    drafted, accepted = rounds.counts(t, g)
    tokens = int(rounds.lengths.sum())
    return Prediction(
        float(speedups[t, g]),
        tuple((rounds.lengths * costs.plain / seconds[:, t, g]).tolist()),
        g + 1,
        taus[t],
        accepted / drafted if drafted else 0.0,
        trace.matchness,
        tokens / max(1, tokens - accepted),
    )


@dataclass(frozen=True, slots=True)
class SimulatedRounds:
    """The round that would begin at each position of each text, for every (τ, γ).

    Attributes:
        drafted, accepted: tokens of the round.  # (M, S, T, G)
        lengths: positions of the texts.  # (S,)
        taus: the τ.  # (T,)
    """

    drafted: Integers
    accepted: Integers
    lengths: Integers
    taus: tuple[float, ...]

    @classmethod
    def of(
        cls,
        trace: Trace,
        gammas: Sequence[int],
        taus: Sequence[float],
        text_continues: bool = False,
    ) -> SimulatedRounds:
        """Simulate a round from every position.

        Args:
            gammas: ascending.
            text_continues: drafts are not cut at the end of the text. The caller uses only
                rounds whose γ tokens lie within the trace.
        """
        longest = gammas[-1]
        rejected: Flags = ~_drafts(trace.matched, longest)  # (M, S, longest)
        confidence: NDArray[np.float32] = _drafts(trace.confidence, longest)
        run = _first(rejected)  # accepted tokens of an endless draft  (M, S)
        unsure = confidence[:, :, None, :] < np.asarray(taus)[:, None]
        stop = _first(unsure) + 1  # drafted up to the first unsure token, included  (M, S, T)
        drafted = np.minimum(np.asarray(gammas), stop[..., None])
        if not text_continues:  # the last token of a text is the target's own
            room = trace.lengths - np.arange(len(run))[:, None] - 1  # (M, S)
            drafted = np.minimum(drafted, np.maximum(room, 0)[..., None, None])
        accepted = np.minimum(drafted, run[..., None, None])
        return cls(drafted, accepted, trace.lengths, tuple(taus))

    def seconds(self, mask: SkipMask, costs: Costs) -> Floats:
        """Predicted decoding time of each text.  # (S, T, G)"""
        by_drafted = np.array([costs.chain_rounds(mask, tau) for tau in self.taus])  # (T, γ + 1)
        first = np.arange(len(self.taus)) * by_drafted.shape[1]  # index of each τ, flattened
        return self._sum(by_drafted.ravel()[self.drafted + first[:, None]])

    def counts(self, t: int, g: int) -> tuple[int, int]:
        """Drafted and accepted tokens of all texts, for the τ and γ of these indices."""
        one = np.s_[:, :, t : t + 1, g : g + 1]
        drafted, accepted = self.drafted[one], self.accepted[one]
        chosen = SimulatedRounds(drafted, accepted, self.lengths, self.taus[t : t + 1])
        return int(chosen._sum(drafted).sum()), int(chosen._sum(accepted).sum())

    def _sum(self, cost: NDArray[Any]) -> Floats:
        """Total `cost` of the rounds that decode each text from its first position.  # (S, T, G)

        Computed backwards: the total from a position is the cost of the round that begins there
        plus the total from the position where the next round begins.
        """
        count = len(cost)
        total = np.zeros((count + 1, *cost.shape[1:]))
        exists = np.arange(count)[:, None] < self.lengths
        cost = cost * exists[..., None, None]
        following = np.minimum(np.arange(count)[:, None, None, None] + self.accepted + 1, count)
        for position in range(count - 1, -1, -1):
            rest = np.take_along_axis(total, following[position][None], 0)[0]
            total[position] = cost[position] + rest
        first: Floats = total[0]
        return first


def _drafts(values: NDArray[Any], longest: int) -> NDArray[Any]:
    """Values of each token of a draft of `longest` tokens.  # (S, M, J) -> (M, S, longest)

    Tokens beyond the J that were scored take the value at the same position of the text in the
    draft that began J − 1 tokens before it.
    """
    _, rows, steps = values.shape
    token = np.arange(longest)
    depth = np.minimum(token, steps - 1)
    start = np.minimum(np.arange(rows)[:, None] + token - depth, rows - 1)
    return values[:, start, depth].swapaxes(0, 1)


def _first(event: Flags) -> Integers:
    """Index of the first event along the last axis; the axis' length if there is none."""
    before: Integers = np.where(event.any(-1), event.argmax(-1), event.shape[-1])
    return before
