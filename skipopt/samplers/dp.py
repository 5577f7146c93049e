"""What dynamic programs over the layers' hidden states propose, then neighbours of the best mask.

Both programs of `layer_programs` give a mask for every budget; those come first that promise most
on the few positions the programs looked at, as KnapSpec (arXiv 2602.20217, §4) orders its frontier
by predicted speed. Cosine's rank correlation with acceptance is weak, so nothing is decided here:
every mask is a trial like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.context import SamplerContext
from skipopt.samplers.dedup import MaskRegistry, take
from skipopt.samplers.initial_masks import first_mask
from skipopt.samplers.sensitivity import subset_scorer

if TYPE_CHECKING:
    from skipopt.samplers.layer_dp import LayerCosts


class DpSampler:
    """Proposes the frontiers of both programs, the most promising masks first.

    The programs run at the first `ask`: seconds on a small model, about as long as scoring a few
    dozen masks.
    """

    def __init__(
        self,
        space: MaskSpace,
        seed: int,
        sampler_context: SamplerContext,
        visited: MaskRegistry | None = None,
    ) -> None:
        """`visited` may be shared with another sampler that is told the same values."""
        self._space = space
        self._scene = sampler_context
        self._visited = MaskRegistry(space, Random(seed)) if visited is None else visited
        self._planned: list[SkipMask] | None = None

    def ask(self, count: int) -> list[SkipMask]:
        return take(self._proposals(), count)

    def tell(self, mask: SkipMask, value: float) -> None:
        self._visited.record(mask, value)

    def guided(self) -> Iterator[SkipMask]:
        """The masks of the frontiers, claimed; ends when they are through."""
        if self._planned is None:
            self._planned = planned_masks(self._space, self._scene)
        yield from filter(self._visited.claim, self._planned)

    def _proposals(self) -> Iterator[SkipMask]:
        yield from self.guided()
        centre = self._visited.best or first_mask(self._space)
        while (mask := self._visited.near(centre)) is not None:
            yield mask


def planned_masks(space: MaskSpace, sampler_context: SamplerContext) -> list[SkipMask]:
    """The masks of `space` on both frontiers, by descending speedup predicted on few positions."""
    from skipopt.cost_model.replay import best_prediction
    from skipopt.samplers.layer_dp import pareto_front

    scorer = subset_scorer(sampler_context)
    promise: dict[SkipMask, float] = {}
    for weights in _programs(space, sampler_context):
        streams = [s for s in pareto_front(scorer, space, weights) if s.mask in space]
        traces = scorer.read_out([stream.state for stream in streams])
        for stream, trace in zip(streams, traces, strict=True):
            promise[stream.mask] = best_prediction(
                trace, stream.mask, sampler_context.costs
            ).speedup
    return sorted(promise, key=lambda mask: -promise[mask])


def _programs(space: MaskSpace, sampler_context: SamplerContext) -> tuple[LayerCosts, LayerCosts]:
    from skipopt.samplers.layer_dp import (
        counted_sublayers,
        priced_sublayers,
        whole_layers,
    )

    free = space.skip_count is None
    return whole_layers(), priced_sublayers(sampler_context.costs) if free else counted_sublayers()
