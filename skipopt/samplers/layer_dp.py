"""Dynamic programs over layers that find, for every budget, a mask whose stream stays true.

Two, over the hidden states of a few dozen positions of the calibration texts:

- CLaSp (arXiv 2505.24196, §3): layers are run or skipped whole; the budget is their number.
- KnapSpec (arXiv 2602.20217, §4): attention and MLP are chosen apart and weighed by their prices
  in units of the cheaper one, and the budget is the weight skipped: a knapsack.

g[i, j] is the stream after layer i with j skipped that has the highest mean cosine to the whole
model's stream there, of those that extend some g[i − 1, ·]. Only one stream per (i, j) goes on, so
the masks are good, not the best; one pass gives the whole frontier. As there, all streams of a
layer run as one stacked forward, each position seeing the whole model's keys and values before it
and its own.

Otherwise than there: a layer's two sublayers are decided together, by the stream after the layer,
because half a layer has no stream in models that run both in parallel; nothing is pruned at mean
cosine 0.5, nor stopped at half of the budget, nor are first and last layer kept, because dense
masks can pay where verification is cheap; γ is left to replay. Cosine says little of acceptance,
so these are proposals only. Knows nothing of trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from skipopt.masks import MaskSpace, SkipMask

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.scoring import Scorer

ATTENTION, MLP, BOTH = 1, 2, 3  # what is skipped in one layer: bits
HEAVIEST = 5  # of a sublayer, in units of the cheaper one, as in KnapSpec's code

LayerCosts = Mapping[
    int, int
]  # of what is skipped in one layer; choices that are missing are barred


@dataclass(frozen=True, slots=True, eq=False)
class PartialPath:
    """The end of one path through the layers: what it skips, and its hidden states."""

    mask: SkipMask
    state: Tensor  # (S, M, H)


def whole_layers() -> LayerCosts:
    """CLaSp's choices."""
    return {0: 0, BOTH: 1}


def priced_sublayers(costs: Costs) -> LayerCosts:
    """KnapSpec's choices and weights: ⌊t / Δ⌉ with Δ the cheaper sublayer's price.

    A price that came out at zero or below, by noise, counts as free beside the other.
    """
    cheaper = min(costs.attention, costs.mlp)
    ratio = max(costs.attention, costs.mlp) / cheaper if cheaper > 0 else HEAVIEST
    heavy = max(1, min(HEAVIEST, round(ratio)))
    attention, mlp = (heavy, 1) if costs.attention > costs.mlp else (1, heavy)
    return {0: 0, ATTENTION: attention, MLP: mlp, BOTH: attention + mlp}


def counted_sublayers() -> LayerCosts:
    """Where the number of skipped sublayers is what is fixed."""
    return {0: 0, ATTENTION: 1, MLP: 1, BOTH: 2}


def pareto_front(scorer: Scorer, space: MaskSpace, weights: LayerCosts) -> list[PartialPath]:
    """The stream kept for each budget above 0, ascending.

    Args:
        scorer: over the positions to compare at; a few dozen do.
        space: of it, only what is frozen counts.
        weights: 1 or more for every choice but 0, which is the whole layer.
    """
    streams = {0: PartialPath(SkipMask.empty(space.layers), scorer.embedded)}
    for layer in scorer.target.layers:
        allowed = [c for c in weights if not _skipped(layer.index, c) & space.frozen]
        budgets = list(streams)
        wanted = [(n, choice) for n in range(len(budgets)) for choice in allowed]
        before = [stream.state for stream in streams.values()]
        after = scorer.advance(layer, before, wanted)
        cosines = _cosines(after, after[wanted.index((0, 0))], scorer.valid)
        kept: dict[int, tuple[float, PartialPath]] = {}
        for (n, choice), state, cosine in zip(wanted, after, cosines, strict=True):
            budget = budgets[n] + weights[choice]
            if budget not in kept or cosine > kept[budget][0]:
                path = streams[budgets[n]].mask.skipped | _skipped(layer.index, choice)
                kept[budget] = cosine, PartialPath(space.mask(path), state)
        streams = {budget: kept[budget][1] for budget in sorted(kept)}
    return [stream for budget, stream in streams.items() if budget]


def _skipped(layer: int, choice: int) -> frozenset[int]:
    return frozenset(2 * layer + bit for bit in (0, 1) if choice >> bit & 1)


@torch.inference_mode()
def _cosines(states: list[Tensor], whole: Tensor, valid: Tensor) -> list[float]:
    """Mean over the positions that exist of the cosine to the whole model's stream."""
    true = whole[valid].float()  # (positions, H)
    return [
        float(torch.cosine_similarity(state[valid].float(), true, dim=-1).mean())
        for state in states
    ]
