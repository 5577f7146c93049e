"""What the first forward of a text reads beside its tokens: images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """Arguments of the model's forward over a prompt.

    Attributes:
        whole: given as they are, such as pixels.
        by_token: one value for each token of the prompt; later tokens have 0.  # (1, T) each
    """

    whole: Mapping[str, Any] = field(default_factory=dict)
    by_token: Mapping[str, Tensor] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.whole or self.by_token)

    def of_first(self, count: int) -> dict[str, Any]:
        """The arguments of a forward over the first `count` tokens of the text."""
        fitted = {
            name: pad(values, (0, max(0, count - values.shape[1])))[:, :count]
            for name, values in self.by_token.items()
        }
        return {**self.whole, **fitted}


TOKENS_ONLY = PromptInputs()
