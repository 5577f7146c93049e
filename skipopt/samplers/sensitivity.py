"""Layer-sensitivity scan: what skipping each sublayer alone does, on a small subset of positions.

Scoring a few dozen positions takes a fraction of a trial's time and is accurate enough to order
proposals. Nothing measured here is recorded as a trial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipopt.masks import MaskSpace, SkipMask

if TYPE_CHECKING:
    from skipopt.samplers.context import SamplerContext
    from skipopt.scoring import ScoredText, Scorer

SUBSET_TEXTS = 4
POSITIONS_PER_TEXT = 12  # the first ones that the model wrote
STACKED_ROWS = 192  # few, because each width of a stack costs one forward of the model beforehand


def subset_scorer(context: SamplerContext) -> Scorer:
    """A scorer of the first positions of the first texts."""
    from skipopt.scoring import Scorer

    return Scorer(context.target, _subset(context.texts), stacked_rows=STACKED_ROWS)


def scan_rows(space: MaskSpace) -> float:
    """Rows of the forwards of a scan; masks share half of them, on average."""
    return len(space.free) * SUBSET_TEXTS * POSITIONS_PER_TEXT / 2


def layer_sensitivity(space: MaskSpace, context: SamplerContext) -> dict[int, float]:
    """By how much the predicted speedup rises when only this free sublayer is skipped."""
    from skipopt.cost_model.replay import best_prediction

    empty = SkipMask.empty(space.layers)
    masks = [empty, *(empty.flip(i) for i in space.free)]
    traces = subset_scorer(context).score(masks)
    baseline, *singles = (
        best_prediction(trace, mask, context.costs).speedup
        for mask, trace in zip(masks, traces, strict=True)
    )
    return {i: value - baseline for i, value in zip(space.free, singles, strict=True)}


def _subset(texts: tuple[ScoredText, ...]) -> list[ScoredText]:
    from skipopt.scoring import ScoredText

    chosen = [text for text in texts if text.continuation][:SUBSET_TEXTS]
    return [
        ScoredText(text.tokens[: text.scored_from + POSITIONS_PER_TEXT], text.scored_from)
        for text in chosen
    ]
