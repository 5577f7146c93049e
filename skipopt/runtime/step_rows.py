"""What goes into a step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skipopt.one_thread import one_thread


class StepRows(NamedTuple):
    """The rows of a step: tokens or embeddings, and where they belong.

    Attributes:
        inputs: token ids (n,), or embeddings as they enter the decoder (n, d).
        positions: of each row in its text.  # (n,)
        attends: for a tree, which cached keys and rows each row attends to; None for tokens in
            a row, which attend to everything before them.  # (n, start + n) bool
        slots: where each row is stored; None for the write position and the slots after it.
            `attends` is then of every slot, (n, num_slots), and the position stays.  # (n,)
    """

    inputs: Tensor
    positions: Tensor
    attends: Tensor | None = None
    slots: Tensor | None = None

    def after(self, inputs: Tensor, positions: Tensor) -> StepRows:
        """Other rows, and behind them these, as tokens in a row."""
        found = torch.cat([inputs, self.inputs]), torch.cat([positions, self.positions])
        return StepRows(*found)

    @one_thread()
    def padded(self, count: int, start: int, capacity: int, all_slots: Tensor) -> StepRows:
        """These rows, then copies of the last one, as many as `count` in all.

        No other row attends to padding rows, and what they leave in the cache is never read.

        Args:
            start: the write position.
            capacity: slots that attention reads.
            all_slots: of the cache; no text has the last ones.  # (num_slots,)
        """
        own = len(self.inputs)
        attends, slots = None, self.slots
        if self.attends is not None:
            attends = self.attends.new_zeros(count, capacity)
            attends[:own, : self.attends.shape[1]] = self.attends
            attends[own:, start] = True  # softmax over nothing would be NaN
        if slots is not None and own < count:
            slots = torch.cat([slots, all_slots[own - count :]])
        return StepRows(
            _repeat_last(self.inputs, count), _repeat_last(self.positions, count), attends, slots
        )


def _repeat_last(rows: Tensor, count: int) -> Tensor:
    """Padded to `count` rows with copies of the last one."""
    if len(rows) == count:
        return rows
    padding = rows[-1:].expand(count - len(rows), *rows.shape[1:])
    return torch.cat([rows, padding])
