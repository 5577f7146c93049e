"""Verification of a chain: greedy match, or speculative sampling.

Both are exact: greedy emits the target's argmax at every position; sampling emits exactly the
target's processed distribution. Knows nothing of where drafts came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.drafting.tree import DraftTree

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.sampling import Sampler


@dataclass(frozen=True, slots=True)
class Verdict:
    """`accepted` drafts stand; `bonus` is the target's own token after them."""

    accepted: int
    bonus: int


def verify_chain(draft: DraftTree, logits: Tensor, sampler: Sampler) -> Verdict:
    """Judge a chain by the target's logits at the current token and each draft.

    Args:
        draft: k tokens.
        logits: the target's, row i after i accepted drafts.  # (k + 1, V)
        sampler: how tokens are chosen.
    """
    if sampler.greedy:
        return match_greedy(draft, logits)
    return reject_sampled(draft, sampler.probabilities(logits), sampler)


def match_greedy(draft: DraftTree, logits: Tensor) -> Verdict:
    """The longest prefix of drafts that the target would have chosen itself."""
    choices: list[int] = logits.argmax(-1).tolist()
    accepted = 0
    while accepted < len(draft.tokens) and draft.tokens[accepted] == choices[accepted]:
        accepted += 1
    return Verdict(accepted, choices[accepted])


def reject_sampled(draft: DraftTree, target: Tensor, sampler: Sampler) -> Verdict:
    """Speculative sampling (Leviathan et al., arXiv 2211.17192, Alg. 1).

    Draft x from p stands with probability min(1, q(x)/p(x)); at the first rejection the next
    token is drawn from norm[q − p]₊, after the last acceptance from q. Point-mass drafts have
    p = 1 at x.  # target: (k + 1, V) processed probabilities q
    """
    for i, token in enumerate(draft.tokens):
        q = target[i]
        p = draft.rows[i] if draft.kind == "sampled" else None
        share = float(q[token]) / (float(p[token]) if p is not None else 1.0)
        # Strict: u = 0 must not accept a token of probability zero.
        if not sampler.uniform() < share:
            return Verdict(i, sampler.draw(residual(q, p, token)))
    return Verdict(len(draft.tokens), sampler.draw(target[len(draft.tokens)]))


def residual(q: Tensor, p: Tensor | None, token: int) -> Tensor:
    """norm[q − p]₊: what the target still has to give after `token` was rejected.  # (V,)"""
    if p is None:
        left = q.clone()
        left[token] = 0.0
    else:
        left = (q - p).clamp_(min=0.0)
    total = left.sum()
    # A rejection with no residual is a rounding accident of p ≈ q; q itself is then right.
    return left / total if float(total) > 0 else q
