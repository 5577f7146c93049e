"""Text lengths at which a model's rotary embeddings change their frequencies.

With `longrope` (Phi-3, Phi-4-mini), a forward whose last position lies beyond
`original_max_position_embeddings` uses other frequencies for all of its rows. No forward may
therefore have rows on both sides, except for those in which `generate` of transformers has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from skipopt.models.text_states import cache_argument
from skipopt.runtime.kv_cache import PositionCache

CHANGING = "longrope"


class RopeBorders:
    """The borders of one model; a border of n tokens lies between the tokens n and n + 1.

    `dynamic` frequencies have none: they change beyond the longest text that is decoded.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._borders = sorted(set(_borders(model)))

    def next(self, length: int) -> int | None:
        """The first border that a text of so many tokens has not passed."""
        return next((border for border in self._borders if length <= border), None)

    def last(self, root: int, limit: int) -> int:
        """The largest position that a row may have in a tree whose first one is at `root`.

        Args:
            limit: most tokens of a text.
        """
        border = self.next(root + 1)
        return (limit if border is None else min(limit, border)) - 1

    def just_passed(self, length: int) -> bool:
        """Whether there is a border before the last token of a text of so many tokens."""
        return length - 1 in self._borders

    def recomputes(self, length: int) -> bool:
        """Whether `generate` drops the cache at the last token of a text of so many tokens.

        The model itself is asked: Phi-3 does so, other models keep what they have.
        """
        if not self.just_passed(length):
            return False
        cache = PositionCache(1, length)
        cache.position = length - 1
        ids = torch.zeros(1, length, dtype=torch.long)
        name = cache_argument(self._model)
        given = self._model.prepare_inputs_for_generation(
            ids, attention_mask=torch.ones_like(ids), use_cache=True, **{name: cache}
        )
        return given.get(name) is None


def _borders(model: Any) -> Iterator[int]:
    config = model.config.get_text_config(decoder=True)
    given = getattr(config, "rope_parameters", None) or {}
    # One set of parameters, or one for each type of layer.
    for each in (given, *given.values()):
        if isinstance(each, Mapping) and each.get("rope_type") == CHANGING:
            yield int(each["original_max_position_embeddings"])
