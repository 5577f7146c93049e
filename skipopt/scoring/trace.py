"""Texts that are scored, and what one candidate did on them: plain values.

Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ScoredText:
    """Tokens the target wrote: `tokens[:scored_from]` is context, the rest is scored."""

    tokens: tuple[int, ...]
    scored_from: int

    @property
    def continuation(self) -> tuple[int, ...]:
        return self.tokens[self.scored_from :]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What one candidate did from every scored position of every text.

    Attributes:
        matched: did the argmax of a draft's j-th token, begun here, equal the target's token?
            # (S, M, J)
        confidence: how sure the draft was of it, at temperature 1.  # (S, M, J) float32
        lengths: scored positions of each text; rows behind them, and tokens of drafts that
            reach beyond, mean nothing.  # (S,)
    """

    matched: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    lengths: NDArray[np.int64]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which tokens of which drafts are of a text.  # (S, M, J)"""
        _, rows, steps = self.matched.shape
        place = np.arange(rows)[:, None] + np.arange(steps)
        return place < self.lengths[:, None, None]

    @property
    def matchness(self) -> float:
        """Teacher-forced share of positions where the draft's argmax is the target's token."""
        return float(self.matched[..., 0][self.valid[..., 0]].mean())

    @property
    def matchness_of_each(self) -> tuple[float, ...]:
        """Of each text alone."""
        hits = (self.matched & self.valid)[..., 0].sum(1)
        return tuple((hits / self.lengths).tolist())

    @classmethod
    def joined(cls, traces: Sequence[Trace]) -> Trace:
        """One of all texts; the shorter ones are padded by what means nothing."""
        rows = max(trace.matched.shape[1] for trace in traces)

        def join(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
            return np.concatenate(
                [np.pad(part, ((0, 0), (0, rows - part.shape[1]), (0, 0))) for part in parts]
            )

        return cls(
            join([trace.matched for trace in traces]),
            join([trace.confidence for trace in traces]),
            np.concatenate([trace.lengths for trace in traces]),
        )
