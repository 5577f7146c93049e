"""The texts that masks are scored on, and what the drafts of one mask did on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ScoredText:
    """Tokens the target generated: `tokens[:scored_from]` is context, the rest is scored."""

    tokens: tuple[int, ...]
    scored_from: int

    @property
    def continuation(self) -> tuple[int, ...]:
        """The scored tokens."""
        return self.tokens[self.scored_from :]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Teacher-forced drafts of one mask from every scored position of every text.

    S texts, M positions of the longest text, J tokens of a draft.

    Attributes:
        matched: whether the j-th token of the draft from this position is the text's.
            # (S, M, J)
        confidence: probability that the draft gave its likeliest token, at temperature 1.
            # (S, M, J) float32
        lengths: scored positions of each text. Entries beyond the end of a text are undefined;
            see `valid`.  # (S,)
    """

    matched: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    lengths: NDArray[np.int64]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which draft tokens lie within their text.  # (S, M, J)"""
        _, rows, steps = self.matched.shape
        position = np.arange(rows)[:, None] + np.arange(steps)
        return position < self.lengths[:, None, None]

    @property
    def matchness(self) -> float:
        """Share of positions where the first draft token is the text's."""
        return float(self.matched[..., 0][self.valid[..., 0]].mean())

    @property
    def matchness_per_text(self) -> tuple[float, ...]:
        """Matchness of each text."""
        hits = (self.matched & self.valid)[..., 0].sum(1)
        return tuple((hits / self.lengths).tolist())

    @property
    def scored_texts(self) -> Trace:
        """The same without the texts of which no position was scored."""
        some = self.lengths > 0
        longest = int(self.lengths.max(initial=0))
        return Trace(
            self.matched[some, :longest], self.confidence[some, :longest], self.lengths[some]
        )

    @classmethod
    def concatenate(cls, traces: Sequence[Trace]) -> Trace:
        """One trace of the texts of all; shorter ones are padded with undefined entries."""
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
