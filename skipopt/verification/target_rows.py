"""The target's logits for one draft, processed as far as verification needs them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from skipopt.drafting.tree import DraftTree
from skipopt.logits_processing import LogitsProcessing

if TYPE_CHECKING:
    from torch import Tensor


class TargetRows:
    """A row of logits after the current token, and one after each of B drafted tokens.

    Args:
        logits: of the target.  # (1 + B, V)
        processing: what changes them before a token is chosen.
        draft: the drafted tokens.
        tokens: prompt and text so far.
        ends: tokens that end a text. Nothing after them is emitted, so it is not processed.

    Attributes:
        on_demand: whether a row should be read only when all tokens before it were accepted.
    """

    def __init__(
        self,
        logits: Tensor,
        processing: LogitsProcessing | None = None,
        draft: DraftTree | None = None,
        tokens: Sequence[int] = (),
        ends: Collection[int] = (),
    ) -> None:
        self._processing = processing or LogitsProcessing()
        self._draft = draft or DraftTree()
        self._tokens, self._ends = tokens, ends
        self.on_demand = self._processing.reads_ids
        self._raw = logits
        scored = bool(self._processing) and not self.on_demand
        self._logits = self._processing.target_rows(logits) if scored else logits
        self._processed: dict[int, Tensor] = {}

    def __getitem__(self, row: int) -> Tensor:
        """The row after drafted token `row` − 1; row 0 is that of the current token.  # (V,)"""
        if not self.on_demand:
            return self._logits[row]
        if row not in self._processed:
            self._processed[row] = self._process(row)
        return self._processed[row]

    def every(self) -> Tensor:
        """All rows.  # (1 + B, V)"""
        if not self.on_demand:
            return self._logits
        import torch

        return torch.stack([self[row] for row in range(len(self._raw))])

    def raw(self, row: int) -> Tensor:
        """A row as the target returned it.  # (V,)"""
        return self._raw[row]

    def _process(self, row: int) -> Tensor:
        branch = self._draft.branch(row - 1)
        if any(token in self._ends for token in branch):
            return self._raw[row].float()
        return self._processing.target_row(self._raw[row], self._tokens, branch)
