"""Dynamic programs over layers: for each weight skipped, a mask that keeps hidden states close.

There are two, over the hidden states of a few dozen positions of the calibration texts:

- CLaSp (arXiv 2505.24196, §3): whole layers are skipped or kept; the weight is their number.
- KnapSpec (arXiv 2602.20217, §4): attention and MLP are chosen separately and weighed by their
  costs in units of the cheaper one: a knapsack.

g[i, j] is the hidden state after layer i with weight j skipped. Of all extensions of g[i − 1, ·],
it is the one of highest mean cosine similarity to the full model's hidden state after layer i.
Only one path per (i, j) is extended, so the masks are good but not optimal; a single pass gives
one for every j. As in both papers, all paths of a layer run as one stacked forward, in which each
position attends to the full model's keys and values before it and to its own.

Differences from the papers:

- a layer's two sublayers are decided together, by the hidden state after the layer, because models
  that run both in parallel have none between them;
- paths are neither pruned at a mean cosine of 0.5 nor stopped at half of the weight, and the first
  and last layers may be skipped, because masks that skip much can pay where verification is cheap;
- γ is chosen by replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from skipopt.masks import MaskSpace, SkipMask

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.scoring import Scorer
    from skipopt.scoring.candidate_state import CandidateState

ATTENTION, MLP, BOTH = 1, 2, 3  # what is skipped in one layer: bits
MAX_WEIGHT = 5  # of a sublayer, in units of the cheaper one, as in KnapSpec's code

# The weight of each choice in one layer. Choices that are missing are not allowed.
LayerWeights = Mapping[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class PartialPath:
    """A path through the first layers: the sublayers it skips and its hidden states."""

    mask: SkipMask
    state: CandidateState


class _Extension(NamedTuple):
    path: int  # its place among the paths before the layer
    choice: int


def whole_layer_weights() -> LayerWeights:
    """CLaSp's choices."""
    return {0: 0, BOTH: 1}


def cost_weights(costs: Costs) -> LayerWeights:
    """KnapSpec's choices and weights: ⌊t / Δ⌉ with Δ the cost of the cheaper sublayer.

    A cost that was measured as zero or below, by noise, makes the other as heavy as allowed.
    """
    cheaper = min(costs.attention, costs.mlp)
    ratio = max(costs.attention, costs.mlp) / cheaper if cheaper > 0 else MAX_WEIGHT
    heavy = max(1, min(MAX_WEIGHT, round(ratio)))
    attention, mlp = (heavy, 1) if costs.attention > costs.mlp else (1, heavy)
    return {0: 0, ATTENTION: attention, MLP: mlp, BOTH: attention + mlp}


def count_weights() -> LayerWeights:
    """The number of skipped sublayers, for spaces that fix it."""
    return {0: 0, ATTENTION: 1, MLP: 1, BOTH: 2}


def pareto_front(scorer: Scorer, space: MaskSpace, weights: LayerWeights) -> list[PartialPath]:
    """The path kept for each weight above 0, by ascending weight.

    Args:
        scorer: of the positions at which hidden states are compared; a few dozen are enough.
        space: its frozen sublayers are never skipped; its skip count is ignored.
        weights: 1 or more for every choice but 0, which skips nothing and is required.
    """
    paths = {0: PartialPath(SkipMask.empty(space.layers), scorer.embedded)}
    for layer in scorer.target.layers:
        allowed = [c for c in weights if not _positions(layer.index, c) & space.frozen]
        extensions = [_Extension(n, choice) for n in range(len(paths)) for choice in allowed]
        states = scorer.advance(layer, [path.state for path in paths.values()], extensions)
        full = states[extensions.index(_Extension(0, 0))]
        cosines = _cosines(states, full, scorer.valid)
        paths = _best_per_weight(paths, layer.index, weights, extensions, states, cosines)
    return [path for weight, path in paths.items() if weight]


def _best_per_weight(
    paths: Mapping[int, PartialPath],
    layer: int,
    weights: LayerWeights,
    extensions: Sequence[_Extension],
    states: Sequence[CandidateState],
    cosines: Sequence[float],
) -> dict[int, PartialPath]:
    """Of the extensions with one total weight, the one of highest cosine; by ascending weight."""
    before = list(paths.items())
    best: dict[int, int] = {}  # weight: the extension's index
    for index, extension in enumerate(extensions):
        weight = before[extension.path][0] + weights[extension.choice]
        if weight not in best or cosines[index] > cosines[best[weight]]:
            best[weight] = index
    return {
        weight: _extended(
            before[extensions[index].path][1], layer, extensions[index], states[index]
        )
        for weight, index in sorted(best.items())
    }


def _extended(
    path: PartialPath, layer: int, extension: _Extension, state: CandidateState
) -> PartialPath:
    skipped = path.mask.skipped | _positions(layer, extension.choice)
    return PartialPath(SkipMask(path.mask.layers, skipped), state)


def _positions(layer: int, choice: int) -> frozenset[int]:
    return frozenset(2 * layer + bit for bit in (0, 1) if choice >> bit & 1)


@torch.inference_mode()
def _cosines(states: Sequence[CandidateState], full: CandidateState, valid: Tensor) -> list[float]:
    """Each state's mean cosine similarity to the full model's, over the valid positions."""
    expected = full.rows(valid).float()  # (…, positions, H)
    return [
        float(torch.cosine_similarity(state.rows(valid).float(), expected, dim=-1).mean())
        for state in states
    ]
