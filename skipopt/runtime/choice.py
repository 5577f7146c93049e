"""The most likely tokens after each row, as steps return them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Choice(NamedTuple):
    """The two most likely tokens of each row.

    Attributes:
        tokens: the most likely.  # (n,)
        confidences: their probabilities at temperature 1.  # (n,)
        runners_up: the next most likely.  # (n,)
        margins: by how much the logits of the first exceed those of the second.  # (n,)
    """

    tokens: Tensor
    confidences: Tensor
    runners_up: Tensor
    margins: Tensor

    def rows(self) -> list[Choice]:
        """Those of one row each."""
        return [Choice(*(each[i : i + 1] for each in self)) for i in range(len(self.tokens))]


def likeliest(logits: Tensor) -> Choice:
    """The two most likely tokens of each row, by operations that steps can be captured of."""
    values, tokens = largest_two(logits)
    confidences = (values[:, 0] - logits.logsumexp(-1)).exp()
    return Choice(tokens[:, 0], confidences, tokens[:, -1], values[:, 0] - values[:, -1])


def largest_two(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Values and indices; one each where there is one only.  # (n, V) -> (n, 2) each"""
    if logits.device.type != "cpu":
        return searched_two(logits)
    found = logits.topk(min(2, logits.shape[-1]))
    return found.values, found.indices


def searched_two(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The same by two searches for the largest: on a GPU, `topk` orders much more than two."""
    first = logits.argmax(-1, keepdim=True)
    second = logits.scatter(-1, first, -float("inf")).argmax(-1, keepdim=True)
    tokens = torch.cat([first, second], -1)
    return logits.gather(-1, tokens), tokens
