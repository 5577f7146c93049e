"""Relaxed verification: accepts draft tokens that the target would not have chosen. *Not exact.*

The text comes faster and is close to the target's, but it is not the target's. Both verifiers take
the longest path of the tree whose tokens are all acceptable. Among siblings that lead equally far
they take the one with the largest logit. The token after the path is the target's likeliest one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from skipopt.errors import UsageError
from skipopt.verification.base import VerifyResult

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.tree import DraftTree
    from skipopt.sampling import TokenSampler
    from skipopt.verification.target_rows import TargetRows


@dataclass(frozen=True, slots=True)
class RelaxedTop:
    """Accepts one of the target's `top` likeliest tokens, if within `margin` of the best.

    *Not exact.* The relaxed verification of SpecDec (Xia et al., arXiv 2203.16487, §3.2), with the
    defaults of its scripts. For greedy decoding only.

    Args:
        top: β; 1 is exact matching.
        margin: τ, in logits.

    Raises:
        UsageError: top < 1, or margin < 0.
    """

    top: int = 5
    margin: float = 3.0
    name: ClassVar[str] = "relaxed-top"
    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.top < 1:
            raise UsageError(f"{self.name}: top must be 1 or more, not {self.top}")
        if not self.margin >= 0:
            raise UsageError(f"{self.name}: margin must be 0 or more, not {self.margin}")

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        rows = logits.every()
        return longest(draft, rows, self._acceptable(draft, rows))

    def _acceptable(self, draft: DraftTree, logits: Tensor) -> list[bool]:
        """For each draft token, whether it may follow its parent."""
        import torch

        rows, own = _at_parents(draft, logits)
        tokens = torch.arange(rows.shape[1], device=rows.device)
        drafted = torch.tensor(draft.tokens, device=rows.device)[:, None]
        # Of equal logits the first is the argmax, so that top = 1 is exact matching.
        ahead = (rows > own) | ((rows == own) & (tokens < drafted))
        near = rows.amax(-1) - own[:, 0] <= self.margin
        acceptable: list[bool] = ((ahead.sum(-1) < self.top) & near).tolist()
        return acceptable


@dataclass(frozen=True, slots=True)
class RelaxedTypical:
    """Accepts a token x with q(x) > min(ε, δ·exp(−H(q))): the flatter q, the more tokens.

    *Not exact.* The typical acceptance of Medusa (Cai et al., arXiv 2401.10774, §2.3.1). As there,
    the target's own token is the likeliest one at any temperature; the temperature only shapes q.
    At temperature 0, where q would be one-hot, q is the target's distribution at temperature 1.

    Args:
        epsilon: ε, a probability that always suffices.
        delta: δ; at 1 or less the likeliest token is always acceptable.

    Raises:
        UsageError: epsilon or delta outside (0, 1].
    """

    epsilon: float = 0.09
    delta: float = 0.3
    name: ClassVar[str] = "relaxed-typical"
    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in {"epsilon": self.epsilon, "delta": self.delta}.items():
            if not 0 < value <= 1:
                raise UsageError(f"{self.name}: {name} must lie in (0, 1], not {value}")

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        rows = logits.every()
        q = rows.float().softmax(-1) if sampler.greedy else sampler.probabilities(rows)
        return longest(draft, rows, self._acceptable(draft, q))

    def _acceptable(self, draft: DraftTree, q: Tensor) -> list[bool]:
        """For each draft token, whether it may follow its parent."""
        import torch

        rows, own = _at_parents(draft, q)
        entropy = torch.special.entr(rows).sum(-1)
        least = (self.delta * entropy.neg().exp()).clamp(max=self.epsilon)
        acceptable: list[bool] = (own[:, 0] > least).tolist()
        return acceptable


def longest(draft: DraftTree, logits: Tensor, acceptable: list[bool]) -> VerifyResult:
    """The longest path of acceptable tokens, then the target's likeliest token.

    Args:
        logits: the target's after the current token and after each draft.  # (1 + B, V)
        acceptable: for each draft token, whether it may follow its parent.
    """
    lengths = _path_lengths(draft, acceptable)
    children = draft.children()
    path: list[int] = []
    node = -1
    while candidates := [i for i in children.get(node, ()) if acceptable[i]]:
        row = logits[node + 1]
        node = max(candidates, key=lambda i: (lengths[i], float(row[draft.tokens[i]])))
        path.append(node)
    return VerifyResult(tuple(path), int(logits[node + 1].argmax()))


def _path_lengths(draft: DraftTree, acceptable: list[bool]) -> list[int]:
    """For each token, the most tokens that can be accepted from it on, itself included."""
    lengths = [0] * len(acceptable)
    below = [0] * (len(acceptable) + 1)  # by parent + 1
    for i in reversed(range(len(acceptable))):
        lengths[i] = 1 + below[i + 1] if acceptable[i] else 0
        parent = draft.parents[i] + 1
        below[parent] = max(below[parent], lengths[i])
    return lengths


def _at_parents(draft: DraftTree, rows: Tensor) -> tuple[Tensor, Tensor]:
    """For each draft token the row of its parent, and the token's value there.

    # (1 + B, V) -> (B, V), (B, 1)
    """
    import torch

    parents = torch.tensor(draft.parents, dtype=torch.long, device=rows.device)
    tokens = torch.tensor(draft.tokens, dtype=torch.long, device=rows.device)
    above = rows[parents + 1]
    return above, above.gather(1, tokens[:, None])
