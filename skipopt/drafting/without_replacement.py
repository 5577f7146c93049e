"""Trees whose siblings are drawn without replacement, level by level.

The k largest of log p + Gumbel noise are k draws from p without replacement, in the order of
drawing (Gumbel top-k); conditioned on their parent's, they make stochastic beam search (Kool et
al., arXiv 1903.06059). Knows nothing of masks, of which children a drafter keeps, or of
verification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.drafting.tree import DraftTree, Kind
from skipopt.drafting.tree_builder import ROOT, TreeBuilder
from skipopt.sampling import confidence

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.base import DraftState
    from skipopt.sampling import TokenSampler


@dataclass(frozen=True, slots=True)
class Level:
    """What the children of n parents are chosen by.

    Attributes:
        scores: their order is that of choosing; −inf where there is nothing to choose.
            # (n, V) float64
        log_p: log-probabilities without noise.  # (n, V) float64
        rows: the probabilities that children are drawn from; None where they are point masses.
            # (n, V) float32
    """

    scores: Tensor
    log_p: Tensor
    probs: Tensor | None


# From depth (0 for the current token) and scores to children, best first: the parent's place in
# the level and the token.
Choice = Callable[[int, Level], list[tuple[int, int]]]


def grow(state: DraftState, depth: int, choose: Choice, tau: float = 0.0) -> DraftTree:
    """A tree of up to `depth` levels by the model that is in force, one forward a level.

    Stops below a level whose rows are all less confident than `tau`. That looks at rows and not
    at what was drawn from them, so sampling stays exact.
    """
    rows: dict[int, Tensor] = {}
    with TreeBuilder(state) as growth:
        parents = [ROOT]
        for step in range(depth):
            logits = growth.run(parents)  # (n, V)
            level = weigh(logits, state.sampler, len(state.tokens) + step)
            if level.probs is not None:
                rows.update(zip(parents, level.probs, strict=True))
            parents = [growth.add(parents[i], token) for i, token in choose(step, level)]
            if tau > 0 and float(confidence(logits).amax()) < tau:
                break
    kind: Kind = "without-replacement" if rows else "point"
    return DraftTree(tuple(growth.tokens), tuple(growth.parents), kind, rows, growth.forwards)


def weigh(logits: Tensor, sampler: TokenSampler, position: int) -> Level:
    """Scores for children that stand at an absolute position.  # (n, V)

    A coupled sampler's noise belongs to the position, and greedy has none: nothing is drawn, and
    the best child is the token that the draft would choose.
    """
    if sampler.coupled:
        scores = sampler.scores(logits, [position] * len(logits)).double().log_softmax(-1)
        return Level(scores, scores, None)
    rows = sampler.probabilities(logits)
    # Of the very row that verification divides by: what is zero there can never be drawn.
    log_p = rows.double().log()
    return Level(log_p + sampler.gumbel(log_p.shape), log_p, rows)


def best(scores: Tensor, count: int) -> list[int]:
    """Places of the largest scores, descending; fewer where the rest are impossible.  # (N,)"""
    values, places = scores.topk(min(count, len(scores)))
    found: list[int] = places[values > float("-inf")].tolist()
    return found


def condition(scores: Tensor, largest: Tensor) -> Tensor:
    """Perturbed log-probabilities, given the largest of each row.  # (n, V), (n,) -> (n, V)

    So that the children of a sequence never outdo it, and all sequences of one length are
    perturbed as if each had been drawn by itself (arXiv 1903.06059, in the form that does not
    overflow).
    """
    bound = largest[:, None]
    over = bound - scores + (scores - scores.amax(-1, keepdim=True)).exp().neg().log1p()
    return bound - over.clamp(min=0.0) - over.abs().neg().exp().log1p()
