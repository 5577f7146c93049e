"""Masks found by dynamic programming over the layers' hidden states.

Both programs of `layer_dp` give a mask for each weight skipped. The masks are proposed by
descending speedup, predicted on the positions that the programs used, as KnapSpec (arXiv
2602.20217, §4) orders its frontier. The rank correlation of cosine similarity with acceptance is
weak, so each mask is evaluated as a trial like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.context import SamplerContext
from skipopt.samplers.dedup import MaskRegistry

if TYPE_CHECKING:
    from skipopt.samplers.layer_dp import LayerWeights
    from skipopt.scoring import Scorer

# The programs run on the first positions of the first texts with any.
SUBSET_TEXTS = 4
POSITIONS_PER_TEXT = 12


class DpSampler(BaseSampler):
    """Proposes the Pareto fronts of both programs, then neighbors of the best mask.

    The programs run at the first `ask`. They take seconds on a small model, about as long as
    scoring a few dozen masks.
    """

    def __init__(
        self,
        space: MaskSpace,
        seed: int,
        registry: MaskRegistry | None = None,
        *,
        context: SamplerContext,
    ) -> None:
        super().__init__(space, seed, registry)
        self._context = context
        self._planned: list[SkipMask] | None = None

    def proposals(self) -> Iterator[SkipMask]:
        """Ends when the Pareto fronts are used up; there are none without time for them."""
        if self._planned is None:
            if not self._context.fits(_program_rows(self.space)):
                return
            self._planned = planned_masks(self.space, self._context)
        yield from filter(self.registry.claim, self._planned)


def planned_masks(space: MaskSpace, context: SamplerContext) -> list[SkipMask]:
    """The masks of `space` on both fronts, by descending speedup predicted on few positions."""
    from skipopt.cost_model.replay import best_prediction
    from skipopt.samplers.layer_dp import pareto_front

    scorer = subset_scorer(context)
    predicted: dict[SkipMask, float] = {}
    for weights in _programs(space, context):
        paths = [path for path in pareto_front(scorer, space, weights) if path.mask in space]
        traces = scorer.read_out([path.state for path in paths])
        for path, trace in zip(paths, traces, strict=True):
            predicted[path.mask] = best_prediction(trace, path.mask, context.costs).speedup
    return sorted(predicted, key=lambda mask: -predicted[mask])


def _program_rows(space: MaskSpace) -> float:
    """Rows of the forwards of both programs: paths of every weight, extended layer by layer."""
    positions = SUBSET_TEXTS * POSITIONS_PER_TEXT
    return 2 * positions * len(space.free)


def _programs(space: MaskSpace, context: SamplerContext) -> tuple[LayerWeights, LayerWeights]:
    from skipopt.samplers.layer_dp import cost_weights, count_weights, whole_layer_weights

    if space.skip_count is None:
        return whole_layer_weights(), cost_weights(context.costs)
    return whole_layer_weights(), count_weights()


def subset_scorer(context: SamplerContext) -> Scorer:
    """A scorer of the first positions of the first texts."""
    from skipopt.scoring import Scorer

    texts = [text for text in context.texts if text.continuation][:SUBSET_TEXTS]
    scorer = Scorer(context.target, texts, contexts=context.contexts)
    count = min(POSITIONS_PER_TEXT, scorer.shape[1])
    return scorer.part(slice(0, len(texts)), slice(0, count))
