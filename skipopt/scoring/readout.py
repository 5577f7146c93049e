"""What drafts choose after the last layer, and how sure they are, without keeping the logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skipopt.models.device_map import input_device
from skipopt.models.patch import Forward, Patch
from skipopt.models.target import Target

# Logits of one block. A block's memory is reused by the next one where it is not much larger, and
# a product of more rows is not faster.
BLOCK_LOGITS = 1 << 24
LEAST_ROWS, MOST_ROWS = 16, 192


class Choice(NamedTuple):
    """The likeliest output of each row, and its probability at temperature 1.  # (n,) each

    The probability is 0 where the logits are not numbers: a draft ends before such a row.
    """

    token: Tensor
    confidence: Tensor


class Readout:
    """Runs the target's own final norm, output projection and logit processing on rows."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._rows = min(MOST_ROWS, max(LEAST_ROWS, BLOCK_LOGITS // target.vocab_size))

    def choose(self, hidden: Tensor) -> Choice:
        """For the last layer's outputs.  # (…, n, H)"""
        blocks = [_choice(self._logits(rows)) for rows in hidden.split(self._rows, -2)]
        return Choice(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))

    def _logits(self, hidden: Tensor) -> Tensor:
        """The model with every layer patched to return `hidden`.  # (…, n, H) -> (n, V)"""
        layers = self._target.layers
        output = layers[0].block.wrap(hidden[..., None, :, :])
        changes: list[tuple[nn.Module, Forward]] = [
            (layer.block.module, lambda *args, **kwargs: output) for layer in layers
        ]
        tokens = torch.zeros(
            1, hidden.shape[-2], dtype=torch.long, device=input_device(self._target.model)
        )
        inputs: dict[str, Any] = {"input_ids": tokens, "position_ids": tokens, "use_cache": False}
        with Patch(changes):
            logits: Tensor = self._target.model(**inputs).logits
        return logits[0]


def _choice(logits: Tensor) -> Choice:
    """Overwrites float32 logits: new tensors of that size take longer than the operations."""
    logits = logits.float()
    highest, token = logits.max(-1, keepdim=True)
    confidence = logits.sub_(highest).exp_().sum(-1).reciprocal_()
    return Choice(token[:, 0], confidence.nan_to_num_(0.0))
