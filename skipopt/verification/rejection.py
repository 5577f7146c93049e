"""Verification by recursive rejection sampling, for chains and trees.

At a node with target distribution q and draft distribution p, its children x₁, x₂, … are tried in
the order they were drawn:

    accept xᵢ  if  u < q(xᵢ) / p(xᵢ),  u uniform in [0, 1)      (always if q(xᵢ) ≥ p(xᵢ))
    else       q ← norm(max(0, q − p))                          the residual distribution
               p ← norm(p without xᵢ)                           if drawn without replacement

After an accepted child the same begins at that child; when all children are rejected the token is
drawn from what q has become (recovered), and where there are none it is drawn from q (bonus). For
a chain this is speculative sampling (Leviathan et al., arXiv 2211.17192, Alg. 1), for a tree
recursive rejection sampling (Jeon et al., arXiv 2402.14160, Alg. 1 and 2).

The text has exactly the target's distribution, provided that every child was drawn from p given
the children before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from skipopt.verification.base import VerifyResult

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.tree import DraftTree, Kind
    from skipopt.sampling import TokenSampler


@dataclass(frozen=True, slots=True)
class Rejection:
    """Recursive rejection sampling with the target's processed probabilities."""

    name: ClassVar[str] = "rejection"
    coupled: ClassVar[bool] = False

    def __call__(
        self, draft: DraftTree, logits: Tensor, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        return reject(draft, sampler.probabilities(logits), sampler)


def reject(draft: DraftTree, target: Tensor, sampler: TokenSampler) -> VerifyResult:
    """Descend while a child is accepted.  # target: (1 + B, V) processed probabilities"""
    children = draft.children()
    path: list[int] = []
    node = -1
    while True:
        siblings = children.get(node, [])
        tokens = [draft.tokens[i] for i in siblings]
        p = draft.draft_probs.get(node)
        accepted, q = accept_first(target[node + 1], p, tokens, draft.kind, sampler)
        if accepted is None:
            return VerifyResult(tuple(path), sampler.draw(q))
        node = siblings[accepted]
        path.append(node)


def accept_first(
    q: Tensor, p: Tensor | None, tokens: list[int], kind: Kind, sampler: TokenSampler
) -> tuple[int | None, Tensor]:
    """The first of the siblings that is accepted.

    Args:
        q: the target's probabilities.  # (V,)
        p: the probabilities the siblings were drawn from; None for point masses.  # (V,)
        tokens: the siblings, in the order they were drawn.

    Returns:
        Its index, or None if all were rejected; and the distribution that the target's own token
        is drawn from in that case.
    """
    if tokens:
        # float64: residuals of residuals must not accumulate rounding errors.
        q, p = q.double(), None if p is None else p.double()
    for i, token in enumerate(tokens):
        ratio = float(q[token]) / (1.0 if p is None else float(p[token]))
        # Strictly less: u = 0 must not accept a token of probability zero.
        if sampler.uniform() < ratio:
            return i, q
        q = residual(q, p, token)
        if p is not None and kind == "without-replacement":
            p = without(p, token)
    return None, q


def residual(q: Tensor, p: Tensor | None, token: int) -> Tensor:
    """norm(max(0, q − p)) after `token` was rejected; p = None is all on `token`.  # (V,)"""
    left = _masked(q, token) if p is None else (q - p).clamp_(min=0.0)
    total = left.sum()
    # p ≈ q leaves nothing but rounding errors, and then q itself is right.
    return left / total if float(total) > 0 else q


def without(p: Tensor, token: int) -> Tensor:
    """norm(p without `token`): the distribution of the next sibling.  # (V,)"""
    left = _masked(p, token)
    return left / left.sum()


def _masked(probabilities: Tensor, token: int) -> Tensor:
    """A copy with the token's probability set to 0.  # (V,)"""
    left = probabilities.clone()
    left[token] = 0.0
    return left
