"""What the first forward of a text reads beside its tokens: images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """Arguments of the model's forward over a prompt.

    Attributes:
        whole: given as they are, such as pixels.
        by_token: one value for each token of the prompt; later tokens have 0.  # (1, T) each
        positions: of the prompt's tokens, where parts of images lie in rows and columns; None
            where they are 0, 1, 2, …  # (k, 1, T)
        shift: what is added to the positions of later tokens.
    """

    whole: Mapping[str, Any] = field(default_factory=dict)
    by_token: Mapping[str, Tensor] = field(default_factory=dict)
    positions: Tensor | None = None
    shift: int = 0

    def __bool__(self) -> bool:
        return bool(self.whole or self.by_token)

    def of_first(self, count: int) -> dict[str, Any]:
        """The arguments of a forward over the first `count` tokens of the text."""
        fitted = {
            name: pad(values, (0, max(0, count - values.shape[1])))[:, :count]
            for name, values in self.by_token.items()
        }
        if self.positions is not None:
            fitted["position_ids"] = self._positions(self.positions, count)
        return {**self.whole, **fitted}

    def _positions(self, given: Tensor, count: int) -> Tensor:
        read = given.shape[-1]
        later = torch.arange(read, max(read, count), device=given.device) + self.shift
        return torch.cat([given, later.expand(*given.shape[:-1], -1)], -1)[..., :count]


TOKENS_ONLY = PromptInputs()
