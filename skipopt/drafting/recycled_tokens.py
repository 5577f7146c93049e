"""Likely successors of tokens, from earlier verifications (Token Recycling, arXiv 2408.08696).

A verification computes logits after every row, also after rejected ones. The likeliest tokens of
each row are kept by the row's own token, and are guesses for what follows that token next time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipopt.kernels.native import native_kernels
from skipopt.one_thread import one_thread

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.base import RoundOutcome

SUCCESSORS = 8  # kept of each token, as in the paper (§3.1)


class RecycledTokens:
    """For each token that was verified, the likeliest tokens after it, the likeliest first."""

    def __init__(self) -> None:
        self._after: dict[int, list[int]] = {}

    def __len__(self) -> int:
        """Tokens with successors."""
        return len(self._after)

    def after(self, token: int) -> Sequence[int]:
        """The likeliest successors of a token; nothing if it has not been verified."""
        return self._after.get(token, ())

    def observe(self, current: int, outcome: RoundOutcome) -> None:
        """Take in the logits of one verification; accepted rows replace rejected ones.

        Args:
            current: the token of the first row.
        """
        tokens = [current, *outcome.draft.tokens]
        found = likeliest(outcome.logits[: len(tokens)], SUCCESSORS)
        accepted = [0, *(1 + i for i in outcome.path)]
        for row in [*range(len(tokens)), *accepted]:
            self._after[tokens[row]] = found[row]


def likeliest(logits: Tensor, count: int) -> list[list[int]]:
    """The `count` tokens of the largest logits in each row, the largest first.  # (n, V)

    On a CPU by a kernel: torch's `topk` takes 2 % of a plain step of a small model.
    """
    import torch

    count = min(count, logits.shape[-1])
    kernels = native_kernels() if logits.device.type == "cpu" else None
    if kernels is not None and logits.dtype == torch.float32 and logits.stride(-1) == 1:
        return kernels.top(logits, count)
    with one_thread():
        found: list[list[int]] = logits.topk(count).indices.tolist()
    return found
