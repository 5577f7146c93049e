"""Score one draft model on the last tokens of a text being decoded, on its live KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from skipopt.logits_processing import LogitsProcessing
from skipopt.sampling import confidence
from skipopt.scoring.trace import Trace

if TYPE_CHECKING:
    from skipopt.runtime.engine import Engine
    from skipopt.sampling import TokenSampler

NO_PROCESSING = LogitsProcessing()


def score_recent_tokens(
    engine: Engine,
    sampler: TokenSampler,
    tokens: Sequence[int],
    window: int,
    drafting: AbstractContextManager[object],
    processing: LogitsProcessing = NO_PROCESSING,
) -> Trace:
    """The first draft token at each of the last positions, in one forward.

    Each position sees the committed keys and values before it and its own of the draft model, as
    the first draft step of a round does. The cache is rewound to where it was.

    Args:
        engine: its position is that of the current token, which it has not read yet.
        sampler: with coupled sampling the draft token is drawn with the noise of its position,
            so that a match is a draft that would have been accepted; else it is the argmax.
        tokens: prompt and text so far, the current token included.
        window: how many of the last tokens to score; fewer than the engine has read.
        drafting: inside, the engine's steps are those of the draft model.
        processing: what changes their logits.

    Returns:
        A trace of one text of `window` positions, with drafts of one token.
    """
    start = engine.position
    first = start - window  # the token read here predicts the first scored one
    try:
        with drafting:
            logits = engine.step_tree(tokens[first:start], range(window), _tree_mask(window))
    finally:
        engine.rewind(start)
    rows = processing.past_rows(logits, tokens, first + 1)
    guesses: list[int] = rows.argmax(-1).tolist()
    if sampler.coupled:
        guesses = sampler.choose(rows, range(first + 1, start + 1))
    matched = np.equal(guesses, tokens[first + 1 : start + 1])
    sure = confidence(logits.float()).cpu().numpy()
    return Trace(matched[None, :, None], sure[None, :, None], np.array([window]))


def _tree_mask(window: int) -> Tensor:
    """Row i attends to the committed tokens before position i, and to itself.  # (W, 2W) bool"""
    before = torch.ones(window, window, dtype=torch.bool).tril(-1)
    return torch.cat([before, torch.eye(window, dtype=torch.bool)], 1)
