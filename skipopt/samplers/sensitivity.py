"""The model looked at with few positions: what steers a search, where no trial is made of it.

A few dozen positions are scored in a fraction of a trial's time, and tell sublayers apart well
enough to begin with. Nothing is decided here: what is then proposed is a trial like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipopt.masks import MaskSpace, SkipMask

if TYPE_CHECKING:
    from skipopt.samplers.context import SamplerContext
    from skipopt.scoring import ScoredText, Scorer

TEXTS, EACH = 4, 12  # the positions looked at: so many texts, the first so many of each
STACKED_ROWS = 192  # few, because each width of a stack costs a forward of the model beforehand


def subset_scorer(sampler_context: SamplerContext) -> Scorer:
    """Over the first positions of the first texts."""
    from skipopt.scoring import Scorer

    return Scorer(sampler_context.target, _few(sampler_context.texts), stacked_rows=STACKED_ROWS)


def layer_sensitivity(space: MaskSpace, sampler_context: SamplerContext) -> dict[int, float]:
    """What skipping each free sublayer alone seems to add to the predicted speedup."""
    from skipopt.cost_model.replay import best_prediction

    empty = SkipMask.empty(space.layers)
    masks = [empty, *(empty.flip(i) for i in space.free)]
    traces = subset_scorer(sampler_context).score(masks)
    nothing, *singles = (
        best_prediction(trace, mask, sampler_context.costs).speedup
        for mask, trace in zip(masks, traces, strict=True)
    )
    return {i: value - nothing for i, value in zip(space.free, singles, strict=True)}


def _few(texts: tuple[ScoredText, ...]) -> list[ScoredText]:
    from skipopt.scoring import ScoredText

    chosen = [text for text in texts if text.continuation][:TEXTS]
    return [
        ScoredText(text.tokens[: text.scored_from + EACH], text.scored_from) for text in chosen
    ]
