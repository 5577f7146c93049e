"""Recursive rejection sampling over chains and trees.

Chains: speculative sampling (Leviathan et al., arXiv 2211.17192, Alg. 1). Trees: children are
tried in the order they were drawn, and each rejection leaves a residual for the next one
(Jeon et al., arXiv 2402.14160, Alg. 1 and 2). The text is distributed exactly as the target's;
each draft must have been drawn, given its elder siblings, from the row its ratio is taken with.
Knows nothing of where drafts came from.
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
    """Accept a child with probability min(1, q/p), else go on with what it leaves."""

    name: ClassVar[str] = "rejection"
    coupled: ClassVar[bool] = False

    def __call__(
        self, draft: DraftTree, logits: Tensor, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        return reject(draft, sampler.probabilities(logits), sampler)


def reject(draft: DraftTree, target: Tensor, sampler: TokenSampler) -> VerifyResult:
    """Walk down while children are accepted.  # target: (1 + B, V) processed probabilities"""
    children = draft.children()
    path: list[int] = []
    node = -1
    while True:
        siblings = children.get(node, [])
        tokens = [draft.tokens[i] for i in siblings]
        chosen, left = judge(
            target[node + 1], draft.draft_probs.get(node), tokens, draft.kind, sampler
        )
        if chosen is None:
            return VerifyResult(tuple(path), sampler.draw(left))
        node = siblings[chosen]
        path.append(node)


def judge(
    q: Tensor, p: Tensor | None, tokens: list[int], kind: Kind, sampler: TokenSampler
) -> tuple[int | None, Tensor]:
    """Which of the siblings is accepted, and else what the next token is to be drawn from.

    Args:
        q: the target's row.  # (V,)
        p: the row that siblings were drawn from; None for point masses.  # (V,)
    """
    if tokens:
        # Residuals of residuals: rounding must not add up.
        q, p = q.double(), None if p is None else p.double()
    for i, token in enumerate(tokens):
        share = float(q[token]) / (1.0 if p is None else float(p[token]))
        # Strict: u = 0 must not accept a token of probability zero.
        if sampler.uniform() < share:
            return i, q
        q = residual(q, p, token)
        if p is not None and kind == "without-replacement":
            p = without(p, token)
    return None, q


def residual(q: Tensor, p: Tensor | None, token: int) -> Tensor:
    """norm[q − p]₊: what the target still has to give after `token` was rejected.  # (V,)"""
    left = _zeroed(q, token) if p is None else (q - p).clamp_(min=0.0)
    total = left.sum()
    # A rejection with no residual is a rounding accident of p ≈ q; q itself is then right.
    return left / total if float(total) > 0 else q


def without(p: Tensor, token: int) -> Tensor:
    """What the next sibling was drawn from: p without `token`, normalised.  # (V,)"""
    left = _zeroed(p, token)
    return left / left.sum()


def _zeroed(row: Tensor, token: int) -> Tensor:
    left = row.clone()
    left[token] = 0.0
    return left
