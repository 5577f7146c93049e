"""Runs steps of several texts in one forward.

The texts share one cache. Each has a region of neighboring slots for itself, and its rows attend
to this region alone, so a forward takes any number of rows of each text without padding. Regions
begin at the borders of the blocks in which the native kernels read keys: a row then has the same
result, to the last bit, as in a cache of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import ModelError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime.attention_mask import attention_mask_format
from skipopt.runtime.engine import Engine
from skipopt.runtime.native_step import MAX_ROWS
from skipopt.runtime.region_cache import RegionCache
from skipopt.runtime.rope_borders import RopeBorders
from skipopt.runtime.step_rows import StepRows

REGION_BLOCK = 64  # slots; regions begin at multiples of it (kBlock in native/attention.h)


def batch_unsupported_reason(target: Target) -> str | None:
    """Why several texts of this model cannot share a forward; None where they can."""
    reason = attention_mask_format(target.model).unsupported_reason
    if reason is not None:
        return reason
    if any(layer.cached.states or layer.cached.index for layer in target.layers):
        return "its layers keep more of a text than keys and values"
    if RopeBorders(target.model).next(0) is not None:
        return "its rotary embeddings change with the length of a text"
    return None


def check_batches(target: Target) -> None:
    """Raise ModelError if several texts of this model cannot share a forward."""
    if (reason := batch_unsupported_reason(target)) is not None:
        raise ModelError(
            f"this model cannot decode batches: {reason}", hint="decode one prompt at a time"
        )


class BatchEngine:
    """One model and the KV caches of several texts.

    Args:
        capacities: most tokens that each text will ever hold, drafts included.

    Attributes:
        texts: an engine for each text. Its own forwards are for the text alone (the prefill).

    Raises:
        ModelError: see `check_batches`.
    """

    def __init__(self, target: Target, capacities: Sequence[int]) -> None:
        check_batches(target)
        sizes = [-(-each // REGION_BLOCK) * REGION_BLOCK for each in capacities]
        self.all = Engine(target, sum(sizes))
        starts = accumulate(sizes, initial=0)
        self.texts = [
            TextEngine(self.all, start, size)
            for start, size in zip(starts, capacities, strict=False)
        ]

    @property
    def max_rows(self) -> int:
        """Rows of a forward that runs as those of single texts do."""
        return MAX_ROWS

    @torch.inference_mode()
    def step(self, given: Sequence[tuple[int, Sequence[int]]]) -> list[Tensor]:
        """Run tokens of several texts and add them to their caches.

        There is one forward, or several where the rows are more than `max_rows`.

        Args:
            given: number of a text, and its next tokens in a row; each text at most once.

        Returns:
            For each text the logits after its tokens.  # (n, V)
        """
        found: list[Tensor] = []
        for part in self._parts(given):
            logits = self.all.forward(self._rows(part))
            found += torch.split(logits, [len(tokens) for _, tokens in part])
        return found

    def _parts(
        self, given: Sequence[tuple[int, Sequence[int]]]
    ) -> Iterator[list[tuple[int, Sequence[int]]]]:
        part: list[tuple[int, Sequence[int]]] = []
        rows = 0
        for each in given:
            if part and rows + len(each[1]) > self.max_rows:
                yield part
                part, rows = [], 0
            part.append(each)
            rows += len(each[1])
        if part:
            yield part

    @torch.inference_mode()
    def _rows(self, given: Sequence[tuple[int, Sequence[int]]]) -> StepRows:
        """The rows of a forward; the positions of their texts are moved on."""
        count, device = sum(len(tokens) for _, tokens in given), self.all.target.device
        attends = torch.zeros(count, self.all.cache.num_slots, dtype=torch.bool, device=device)
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for number, tokens in given:
            text, row = self.texts[number], len(ids)
            text.cache.check_room(len(tokens))
            position = text.position
            for i in range(len(tokens)):
                attends[row + i, text.start : text.start + position + i + 1] = True
            ids += tokens
            positions += range(position, position + len(tokens))
            slots += range(text.start + position, text.start + position + len(tokens))
            text.cache.position += len(tokens)
        return StepRows(
            torch.tensor(ids, device=device),
            torch.tensor(positions, device=device),
            attends,
            torch.tensor(slots, device=device),
        )

    @torch.inference_mode()
    def clear_new(self) -> None:
        """Set what lies behind each text to 0: values that are not numbers would spoil others."""
        end = 0
        for text in self.texts:
            end = text.start + text.cache.capacity
            self.all.cache.clear(text.start + text.position, end)
        self.all.cache.clear(end)  # rows that only fill up a captured step

    @torch.inference_mode()
    def clear(self) -> None:
        """Drop everything, and its values too."""
        self.all.clear(0)


class TextEngine(Engine):
    """The engine of one text of a batch.

    Args:
        whole: the engine over all texts.
        start: first slot of its region.
        capacity: most tokens of the text.
    """

    def __init__(self, whole: Engine, start: int, capacity: int) -> None:
        self.start = start
        self._whole = whole
        super().__init__(whole.target, capacity, cache=RegionCache(whole.cache, start, capacity))
        with torch.inference_mode():
            self._positions = whole._positions[start : start + capacity].copy_(self._slots)

    @contextmanager
    def draft_mode(self, mask: SkipMask, config: DraftConfig = UNCHANGED) -> Iterator[None]:
        """See `Engine.draft_mode`: of the forwards of all texts."""
        with self._whole.draft_mode(mask, config):
            yield
