"""Score many masks at once: from every position, would the draft's tokens be the target's?

The target's keys and values of each text are computed once. A candidate then drafts from all
scored positions in one teacher-forced pass. A draft's tokens attend to the *full model's* keys
and values before its start and to the draft's own from there on, which is what a round sees
(running the skipped model alone over the text is not). Teacher forcing is no approximation: the
n-th token of a draft matters only where all before it were right, and those are the text's.
Candidates share a forward: layer by layer, masks that agree so far are one row (a trie),
distinct rows are stacked along the query axis. Knows nothing of samplers, prices or γ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import PromptError
from skipopt.masks import SkipMask
from skipopt.models.patch import Patch
from skipopt.models.skip import skipping
from skipopt.models.sublayers import DecoderLayer
from skipopt.models.target import Target
from skipopt.runtime.draft_mode import quantized_weights
from skipopt.sampling import confidence
from skipopt.scoring.layer_runner import LayerRunner
from skipopt.scoring.stacked_batch import StackedBatch
from skipopt.scoring.trace import ScoredText, Trace

# Rows of one stacked forward; more do not speed up a matrix product, but the mask grows.
STACKED_ROWS = 768


class Scorer:
    """Scores masks of one target on fixed texts.

    Args:
        target: the model.
        texts: what it wrote itself, looped stretches left out.
        steps: tokens of each draft; the cost of scoring grows with it.
        stacked_rows: candidates share forwards of up to so many rows.
        levers: what else the drafts are made with, of those that there are here.

    Raises:
        PromptError: no text has a position to score.
    """

    def __init__(
        self,
        target: Target,
        texts: Sequence[ScoredText],
        steps: int = 1,
        stacked_rows: int = STACKED_ROWS,
        draft_config: DraftConfig = UNCHANGED,
    ) -> None:
        texts = [t for t in texts if t.continuation]
        if not texts:
            raise PromptError(
                "no calibration text has a position to score",
                hint="give longer or more varied prompts",
            )
        self.target = target
        self.positions = sum(len(t.continuation) for t in texts)
        self._batch = StackedBatch(target, texts, steps, draft_config.attention_window)
        self._weights = quantized_weights(
            target, SkipMask.empty(target.depth), draft_config.weight_bits
        )
        self._wide = max(1, stacked_rows // self._batch.queries.numel())
        self._frames: dict[int, LayerRunner] = {}
        self._patches: dict[tuple[int, int], Patch] = {}

    def score(self, masks: Sequence[SkipMask], share_prefixes: bool = True) -> list[Trace]:
        """One trace per mask, in order; equal to scoring them one at a time.

        Args:
            share_prefixes: compute layers on which masks agree from the first on only once.
                Without it candidates still share forwards; to measure what sharing gives.
        """
        with torch.inference_mode(), self._weights:
            hidden = self._descend(list(dict.fromkeys(masks)), share_prefixes)
            traces = self.read_out(hidden)
        found = dict(zip(dict.fromkeys(masks), traces, strict=True))
        return [found[mask] for mask in masks]

    @property
    def embedded(self) -> Tensor:
        """What the first layer is given in every row.  # (S, M·J, H)"""
        with torch.inference_mode():
            return self._frame(1).embedded

    @property
    def valid(self) -> Tensor:
        """Rows that exist (texts differ in length).  # (S, M·J) bool"""
        return self._batch.targets >= 0

    @torch.inference_mode()
    def advance(
        self, layer: DecoderLayer, states: Sequence[Tensor], wanted: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """States before one layer to states after it, equal choices stacked.

        Args:
            states: each (S, M·J, H).
            wanted: which of them, and what to skip in this layer: bit 0 = attention, 1 = MLP.
        """
        result: list[Tensor | None] = [None] * len(wanted)
        for choice in sorted({c for _, c in wanted}):
            members = [i for i, (_, c) in enumerate(wanted) if c == choice]
            if choice == 3:
                for i in members:
                    result[i] = states[wanted[i][0]]
                continue
            with self._patch(layer.index, choice):
                for _first, group in _chunks(members, self._wide):
                    stack = torch.cat([states[wanted[i][0]] for i in group], 1)
                    out = self._frame(len(group)).run(layer, stack)
                    for i, part in zip(group, out.chunk(len(group), 1), strict=True):
                        result[i] = part
        return [r for r in result if r is not None]

    @torch.inference_mode()
    def read_out(self, states: Sequence[Tensor]) -> list[Trace]:
        """What a draft says whose last layer ends in each of these states.  # each (S, M·J, H)"""
        return [
            trace
            for _first, stack in _chunks(list(states), self._wide)
            for trace in self._read_out(torch.cat(stack, 1), len(stack))
        ]

    def _patch(self, layer: int, choice: int) -> Patch:
        """One layer's sublayers skipped; made once, for it is asked for with every batch."""
        if (layer, choice) not in self._patches:
            mask = _one_layer(self.target.depth, layer, choice)
            self._patches[layer, choice] = skipping(self.target, mask)
        return self._patches[layer, choice]

    def _frame(self, width: int) -> LayerRunner:
        """The layers' arguments for `width` stacked candidates; they do not depend on masks."""
        if width not in self._frames:
            self._frames[width] = LayerRunner(self.target, self._batch, width)
        return self._frames[width]

    def _descend(self, masks: list[SkipMask], share: bool) -> list[Tensor]:
        """Hidden states after the last layer, one (S, M·J, H) per mask."""
        start = self.embedded
        states: list[Tensor] = [start] * (1 if share else len(masks))
        node_of = [0 if share else i for i in range(len(masks))]  # the state of each mask
        for layer in self.target.layers:
            wanted: dict[tuple[int, int], int] = {}
            for i, mask in enumerate(masks):
                key = (node_of[i], _choice(mask, layer.index))
                node_of[i] = wanted.setdefault(key, len(wanted))
            states = self.advance(layer, states, list(wanted))
        return [states[n] for n in node_of]

    def _read_out(self, hidden: Tensor, width: int) -> Iterator[Trace]:
        logits = self._frame(width).logits(hidden)  # (S, width·M, V)
        targets = self._batch.targets.repeat(1, width)
        matched = (logits.argmax(-1) == targets).cpu().numpy()
        sure = confidence(logits.float()).cpu().numpy()
        shape = (*self._batch.shape, self._batch.steps)
        for m, s in zip(np.split(matched, width, 1), np.split(sure, width, 1), strict=True):
            yield Trace(m.reshape(shape), s.reshape(shape), self._batch.lengths)


def _choice(mask: SkipMask, layer: int) -> int:
    """0 … 3: bit 0 = attention skipped, bit 1 = MLP skipped."""
    return int(2 * layer in mask.skipped) + 2 * int(2 * layer + 1 in mask.skipped)


def _one_layer(depth: int, layer: int, choice: int) -> SkipMask:
    return SkipMask.of(depth, [layer] if choice & 1 else (), [layer] if choice & 2 else ())


def _chunks(items: list[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
    for first in range(0, len(items), size):
        yield first, items[first : first + size]
