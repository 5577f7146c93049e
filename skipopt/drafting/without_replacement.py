"""Trees whose siblings are drawn without replacement, level by level.

The k largest values of log p + Gumbel noise are k draws from p without replacement, in the order
of drawing (Gumbel top-k). Conditioned on their parent's value they give stochastic beam search
(Kool et al., arXiv 1903.06059).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.drafting.tree import DraftKind, DraftTree
from skipopt.drafting.tree_builder import ROOT, TreeBuilder
from skipopt.one_thread import one_thread
from skipopt.sampling import confidence

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.base import DraftState
    from skipopt.sampling import TokenSampler


@dataclass(frozen=True, slots=True)
class Level:
    """Scores of all possible children of n parents.

    Attributes:
        scores: children are chosen in descending order; −inf = impossible.  # (n, V) float64
        log_p: log-probabilities without noise.  # (n, V) float64
        probs: the probabilities that children are drawn from; None if they are point masses.
            # (n, V) float32
    """

    scores: Tensor
    log_p: Tensor
    probs: Tensor | None


# (depth of the parents, 0 for the current token; their level) -> children, best first, as
# (index of the parent in the level, token).
Choice = Callable[[int, Level], list[tuple[int, int]]]


def grow(state: DraftState, depth: int, choose: Choice, tau: float = 0.0) -> DraftTree:
    """A tree of up to `depth` levels by the active draft model, with one forward per level.

    Stops below a level whose rows are all less confident than `tau`. The confidence depends on the
    rows, not on the tokens drawn from them, so sampling stays exact.
    """
    draft_probs: dict[int, Tensor] = {}
    with TreeBuilder(state) as builder:
        parents = [ROOT]
        for step in range(depth):
            logits = builder.run(parents)  # (n, V)
            rows = state.processed(logits, [builder.branch(node) for node in parents])
            level = level_scores(rows, state.sampler, len(state.tokens) + step)
            if level.probs is not None:
                draft_probs.update(zip(parents, level.probs, strict=True))
            parents = [builder.add(parents[i], token) for i, token in choose(step, level)]
            if not parents or (tau > 0 and float(confidence(logits).amax()) < tau):
                break  # there are no children of logits that are not numbers
    kind: DraftKind = "without-replacement" if draft_probs else "point"
    return DraftTree(
        tuple(builder.tokens), tuple(builder.parents), kind, draft_probs, builder.forwards
    )


@one_thread()
def level_scores(logits: Tensor, sampler: TokenSampler, position: int) -> Level:
    """Scores of children at an absolute position, from their parents' logits.  # (n, V)

    With a coupled sampler nothing is drawn: scores include the noise of the position (none if
    greedy), and the best child is the token that the draft would choose.
    """
    if sampler.coupled:
        scores = sampler.scores(logits, [position] * len(logits)).double().log_softmax(-1)
        return Level(scores, scores, None)
    probs = sampler.probabilities(logits)
    # From the float32 values that verification divides by: what is zero there is never drawn.
    log_p = probs.double().log()
    return Level(log_p + sampler.gumbel(log_p.shape), log_p, probs)


@one_thread()
def best(scores: Tensor, count: int) -> list[int]:
    """Indices of the largest scores, descending; fewer if the rest are impossible.  # (N,)"""
    values, indices = scores.topk(min(count, len(scores)))
    found: list[int] = indices[values > float("-inf")].tolist()
    return found


@one_thread()
def condition(scores: Tensor, largest: Tensor) -> Tensor:
    """Perturbed log-probabilities given the largest of each row.  # (n, V), (n,) -> (n, V)

    Children then never exceed the sequence they extend, and all sequences of one length are
    perturbed as if each were drawn independently (arXiv 1903.06059, in the form that does not
    overflow).
    """
    bound = largest[:, None]
    over = bound - scores + (scores - scores.amax(-1, keepdim=True)).exp().neg().log1p()
    return bound - over.clamp(min=0.0) - over.abs().neg().exp().log1p()
