"""The cache that a model makes itself, with a copy of it from which to go on.

Nothing in such a cache can be dropped. A copy is kept of a text position that is certain, the
checkpoint. After a rejected draft, it takes the place of the cache, and the tokens since then are
read once more: by the whole model in a forward of their own, after which the checkpoint is moved
up to them, or by the draft model in front of its own rows.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from skipopt.models.own_cache import OwnCache

UNKNOWN = -1  # position of a cache that a forward left unfinished


class OwnCacheCheckpoint:
    """A cache and a copy of it at a position of the text.

    Args:
        num_slots: most tokens of a text.

    Attributes:
        cache: what the next forward is given.
        position: tokens that the copy has read.
        keeps: whether the model has returned a cache; if not, texts are read from their start.
        tokens: those of the text, by position; `forward_ran` stores them.  # (num_slots,)
    """

    def __init__(self, model: Any, num_slots: int, device: torch.device) -> None:
        self.cache = OwnCache(model)
        self.position = 0
        self.keeps = True
        self.tokens = torch.zeros(num_slots, dtype=torch.long, device=device)
        self._saved: Any = None
        self._read = 0  # tokens that the cache has read
        self._drafted = False  # whether the draft model has read some of them

    def begin(self, position: int, count: int, drafting: bool) -> int:
        """Prepare a forward of `count` rows that begins at `position`.

        Args:
            drafting: whether the draft model runs.

        Returns:
            From which position on tokens must be read: `position`, or an earlier one where the
            cache had to be set back.
        """
        start = position
        if self._read != position or (self._drafted and not drafting):
            start = self._set_back(position)
        elif not self._drafted and self.position != position and (drafting or count > 1):
            # A single row of the whole model is hardly ever dropped.
            self.save(position)
        self._read = UNKNOWN  # if the forward fails
        return start

    def save(self, position: int) -> None:
        """Move the checkpoint to `position`, where the cache is now."""
        self._saved, self.position = self.cache.copy(), position

    def forward_ran(self, position: int, tokens: Tensor, drafting: bool) -> None:
        """Note that a forward over these tokens, from `position` on, has run."""
        end = position + len(tokens)
        self.tokens[position:end] = tokens
        self.keeps = self.cache.contents is not None
        self._read = end if self.keeps else 0
        self._drafted = self._drafted or drafting

    def _set_back(self, position: int) -> int:
        """Set the cache back to the checkpoint, or to the start if that is later."""
        if self.position > position:
            self._saved, self.position = None, 0
        self.cache.contents = deepcopy(self._saved)
        self._drafted = False
        return self.position
