"""What goes into a step."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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
