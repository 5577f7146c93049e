"""Verification that lets drafts stand which the target would not have chosen: *not exact*.

Faster text that is close to the target's, and no longer its own. Both verifiers take the longest
path of the tree whose tokens stand, and of siblings that lead equally far the one that the target
likes best; the token after it is the target's likeliest. Knows nothing of draft probabilities.
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


@dataclass(frozen=True, slots=True)
class RelaxedTop:
    """A draft stands among the target's `top` likeliest tokens, within `margin` of the best.

    *Not exact.* The relaxed verification of SpecDec (Xia et al., arXiv 2203.16487, §3.2), with the
    defaults of its scripts. For greedy decoding alone.

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
        self, draft: DraftTree, logits: Tensor, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        return longest(draft, logits, self._stand(draft, logits))

    def _stand(self, draft: DraftTree, logits: Tensor) -> list[bool]:
        """Which drafts may stand where their parents do."""
        import torch

        rows, own = _judged(draft, logits)
        tokens = torch.arange(rows.shape[1], device=rows.device)
        drafted = torch.tensor(draft.tokens, device=rows.device)[:, None]
        # Of equal logits the first is the argmax, so that top = 1 is matching.
        ahead = (rows > own) | ((rows == own) & (tokens < drafted))
        near = rows.amax(-1) - own[:, 0] <= self.margin
        stand: list[bool] = ((ahead.sum(-1) < self.top) & near).tolist()
        return stand


@dataclass(frozen=True, slots=True)
class RelaxedTypical:
    """A draft stands where q(x) > min(ε, δ·exp(−H(q))): a flat q lets more stand.

    *Not exact.* The typical acceptance of Medusa (Cai et al., arXiv 2401.10774, §2.3.1), whose own
    token is the likeliest one at any temperature, too: temperature only sets what is typical.
    At temperature 0, where its q would be one-hot, q is the target's distribution at 1.

    Args:
        epsilon: ε, a probability that always suffices.
        delta: δ; at 1 or less the likeliest token always stands.

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
        self, draft: DraftTree, logits: Tensor, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        q = logits.float().softmax(-1) if sampler.greedy else sampler.probabilities(logits)
        return longest(draft, logits, self._stand(draft, q))

    def _stand(self, draft: DraftTree, q: Tensor) -> list[bool]:
        import torch

        rows, own = _judged(draft, q)
        entropy = torch.special.entr(rows).sum(-1)
        least = (self.delta * entropy.neg().exp()).clamp(max=self.epsilon)
        stand: list[bool] = (own[:, 0] > least).tolist()
        return stand


def longest(draft: DraftTree, logits: Tensor, stand: list[bool]) -> VerifyResult:
    """The longest path of tokens that stand, then the target's likeliest.  # (1 + B, V)"""
    reach = _reach(draft, stand)
    children = draft.children()
    path: list[int] = []
    node = -1
    while standing := [i for i in children.get(node, ()) if stand[i]]:
        row = logits[node + 1]
        node = max(standing, key=lambda i: (reach[i], float(row[draft.tokens[i]])))
        path.append(node)
    return VerifyResult(tuple(path), int(logits[node + 1].argmax()))


def _reach(draft: DraftTree, stand: list[bool]) -> list[int]:
    """How many tokens may be accepted from each one on, itself included."""
    reach = [0] * len(stand)
    below = [0] * (len(stand) + 1)  # by parent + 1
    for i in reversed(range(len(stand))):
        reach[i] = 1 + below[i + 1] if stand[i] else 0
        parent = draft.parents[i] + 1
        below[parent] = max(below[parent], reach[i])
    return reach


def _judged(draft: DraftTree, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The row that each draft is judged by, and its own value there.  # (B, V), (B, 1)"""
    import torch

    parents = torch.tensor(draft.parents, dtype=torch.long, device=rows.device)
    tokens = torch.tensor(draft.tokens, dtype=torch.long, device=rows.device)
    judged = rows[parents + 1]
    return judged, judged.gather(1, tokens[:, None])
