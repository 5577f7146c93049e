"""A sublayer that leaves a mark, so that other modules know whether it ran."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Marking(nn.Module):
    """An MLP that adds 100 to the first number of each row."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.mark = nn.Buffer(torch.tensor([100.0] + [0.0] * 31))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x) + self.mark
        return found
