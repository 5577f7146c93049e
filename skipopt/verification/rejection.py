"""Verification by recursive rejection sampling, for chains and trees.

At a node with target distribution q and draft distribution p, the children x₁, x₂, … are tried in
the order in which they were drawn:

    accept xᵢ  if  u < q(xᵢ) / p(xᵢ),  u uniform in [0, 1)      (always if q(xᵢ) ≥ p(xᵢ))
    else       q ← norm(max(0, q − p))                          the residual distribution
               p ← norm(p without xᵢ)                           if drawn without replacement

If a child is accepted, the procedure is repeated at that child. If all children are rejected, the
recovered token is drawn from the last residual q. At a node without children, the bonus token is
drawn from q. For a chain this is speculative sampling (Leviathan et al., arXiv 2211.17192,
Alg. 1), for a tree recursive rejection sampling (Jeon et al., arXiv 2402.14160, Alg. 1 and 2).

The text has exactly the target's distribution, provided that every child was drawn from p, updated
for the children before it as above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from skipopt.verification.base import VerifyResult

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.tree import DraftKind, DraftTree
    from skipopt.sampling import TokenSampler
    from skipopt.verification.target_rows import TargetRows


@dataclass(frozen=True, slots=True)
class Rejection:
    """Recursive rejection sampling with the target's processed probabilities."""

    name: ClassVar[str] = "rejection"
    coupled: ClassVar[bool] = False

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        # Probabilities take time for each row, and rows after a rejected token are not read.
        return reject(draft, _ProbabilitiesOnDemand(logits, sampler), sampler)


class Probabilities(Protocol):
    """A tensor (n, V), or what computes its rows when they are asked for."""

    def __getitem__(self, row: int) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class _ProbabilitiesOnDemand:
    logits: TargetRows
    sampler: TokenSampler

    def __getitem__(self, row: int) -> Tensor:
        return self.sampler.probabilities(self.logits[row][None])[0]


def reject(draft: DraftTree, target: Probabilities, sampler: TokenSampler) -> VerifyResult:
    """Descend the tree while a child is accepted.

    Args:
        target: processed probabilities of the current token and the B drafted ones.  # (1 + B, V)
    """
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
    q: Tensor, p: Tensor | None, tokens: list[int], kind: DraftKind, sampler: TokenSampler
) -> tuple[int | None, Tensor]:
    """Try siblings in order until one is accepted.

    Args:
        q: the target's probabilities.  # (V,)
        p: the probabilities the siblings were drawn from; None for point masses.  # (V,)
        tokens: the siblings, in the order in which they were drawn.

    Returns:
        The index of the accepted sibling, or None if all were rejected; and q or its last
        residual, from which the target's own token is drawn if all were rejected.
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
    """norm(max(0, q − p)) after `token` was rejected; p = None: p(token) = 1.  # (V,)"""
    rest = _zeroed(q, token) if p is None else (q - p).clamp_(min=0.0)
    total = rest.sum()
    # The sum is 0 only if p equals q up to rounding errors.
    return rest / total if float(total) > 0 else q


def without(p: Tensor, token: int) -> Tensor:
    """norm(p without `token`): the distribution of the next sibling.  # (V,)"""
    rest = _zeroed(p, token)
    return rest / rest.sum()


def _zeroed(probabilities: Tensor, token: int) -> Tensor:
    """A copy with the token's probability set to 0.  # (V,)"""
    copy = probabilities.clone()
    copy[token] = 0.0
    return copy
