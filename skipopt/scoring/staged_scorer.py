"""Scores masks on more and more positions: on a few of some texts first, on all of them last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from skipopt.masks import SkipMask
from skipopt.scoring.scorer import Scorer
from skipopt.scoring.trace import Trace


class Part(NamedTuple):
    """Positions `begin` to `end` of the texts from `first` to `last`."""

    first: int
    last: int
    begin: int
    end: int


Stage = Sequence[Part]


def stages(
    texts: int, positions: int, first_texts: int, first_positions: int, more_positions: int
) -> list[Stage]:
    """Three stages: some positions of the last texts, more of every text, and all.

    Fewer where there are not so many texts or positions. Together they hold each position once.

    Args:
        texts, positions: all of them; positions of the longest text.
        first_texts, first_positions: of the first stage.
        more_positions: of every text, by the end of the second stage.
    """
    split = max(0, texts - first_texts)
    one = min(first_positions, positions)
    two = min(max(one, more_positions), positions)
    wanted = (
        [Part(split, texts, 0, one)],
        [Part(split, texts, one, two), Part(0, split, 0, two)],
        [Part(0, texts, two, positions)],
    )
    found = ([p for p in stage if p.first < p.last and p.begin < p.end] for stage in wanted)
    return [stage for stage in found if stage]


class StagedScorer:
    """Extends the traces of masks, stage by stage.

    Args:
        scorer: of all positions, with drafts of one token.
        plan: positions of each text by ascending position, as `stages` gives them.
    """

    def __init__(self, scorer: Scorer, plan: Sequence[Stage]) -> None:
        self._scorer = scorer
        self._plan = plan
        self._parts = [
            [
                (part, scorer.part(slice(part.first, part.last), slice(part.begin, part.end)))
                for part in stage
            ]
            for stage in plan
        ]

    def __len__(self) -> int:
        """Number of stages."""
        return len(self._plan)

    def keep(self, stage: int, masks: Sequence[SkipMask]) -> None:
        """See `Scorer.keep`; for the parts of one stage."""
        for _, scorer in self._parts[stage]:
            scorer.keep(masks)

    def extend(
        self, stage: int, masks: Sequence[SkipMask], traces: Sequence[Trace] | None = None
    ) -> list[Trace]:
        """The traces of distinct masks, with the positions of one more stage.

        Args:
            traces: of these masks up to the stage before; None for the first stage.
        """
        if traces is None:
            traces = [self._scorer.no_trace() for _ in masks]
        for part, scorer in self._parts[stage]:
            scored = scorer.score(masks)
            traces = [_joined(a, b, part) for a, b in zip(traces, scored, strict=True)]
        return list(traces)


def _joined(before: Trace, scored: Trace, part: Part) -> Trace:
    """`before` with the positions of a part, whose texts have all positions before them."""
    matched, confidence, lengths = (
        before.matched.copy(),
        before.confidence.copy(),
        before.lengths.copy(),
    )
    where = np.s_[part.first : part.last, part.begin : part.end]
    matched[where], confidence[where] = scored.matched, scored.confidence
    lengths[part.first : part.last] += scored.lengths
    return Trace(matched, confidence, lengths)
