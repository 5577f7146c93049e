"""Likely successors of tokens, from earlier verifications (Token Recycling, arXiv 2408.08696).

A verification computes logits after every row, also after rejected ones. The likeliest tokens of
each row are kept by the row's own token, and are guesses for what follows that token next time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipopt.one_thread import one_thread

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.base import RoundOutcome

SUCCESSORS = 8  # kept of each token, as in the paper (§3.1)
CHUNK = 512  # of the vocabulary, see `likeliest`


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


@one_thread()
def likeliest(logits: Tensor, count: int) -> list[list[int]]:
    """The `count` tokens of the largest logits in each row, the largest first.  # (n, V)

    The largest logits lie in the chunks of the largest maxima, so few are sorted.
    """
    rows, vocab = logits.shape
    count = min(count, vocab)
    chunks = vocab // CHUNK
    if chunks <= count:
        found: list[list[int]] = logits.topk(count).indices.tolist()
        return found
    import torch

    whole = logits[:, : chunks * CHUNK].reshape(rows, chunks, CHUNK)
    best = whole.amax(-1).topk(count).indices  # (n, count)
    offsets = torch.arange(CHUNK, device=logits.device)
    rest = torch.arange(chunks * CHUNK, vocab, device=logits.device).expand(rows, -1)
    tokens = torch.cat([(best[:, :, None] * CHUNK + offsets).flatten(1), rest], 1)
    order = logits.gather(1, tokens).topk(count).indices
    taken: list[list[int]] = tokens.gather(1, order).tolist()
    return taken
