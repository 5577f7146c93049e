"""Score many skip masks at once by teacher-forced drafts from every position of the texts.

The target's keys and values of each text are computed once. A candidate then drafts from all
scored positions in one teacher-forced pass. As in decoding, the tokens of a draft attend to the
*full model's* keys and values before its start, and to the draft's own from there on; a forward of
the draft model alone over the text would give another result. Teacher forcing is exact: the n-th
token of a draft counts only if all tokens before it were right, that is, equal to the text.

Candidates share forwards. At each layer, masks that are equal up to that layer share one state (a
trie of prefixes), and distinct states are stacked along the query axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
from skipopt.runtime.draft_mode import draft_weights, frequent_vocabulary
from skipopt.sampling import confidence
from skipopt.scoring.layer_runner import LayerRunner
from skipopt.scoring.stacked_batch import StackedBatch
from skipopt.scoring.trace import ScoredText, Trace

# Rows of one stacked forward. More do not make a matrix product faster, but the mask grows.
STACKED_ROWS = 768
BOTH = 3  # attention and MLP


class Scorer:
    """Scores masks of one target on fixed texts.

    Args:
        target: the model.
        texts: what it generated itself, without degenerate repetition.
        steps: tokens of each draft; scoring takes time in proportion.
        stacked_rows: most rows of a forward that candidates share.
        draft_config: what else makes the drafts cheaper, supported on this machine. A draft
            vocabulary is taken to be made from these texts: a token of a text counts as drafted
            only if the other texts suffice for it to be in the vocabulary.

    Attributes:
        positions: scored positions of all texts.

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
        texts = [text for text in texts if text.continuation]
        if not texts:
            raise PromptError(
                "no calibration text has a position to score",
                hint="give longer or more varied prompts",
            )
        target.runtime.refresh()
        self.target = target
        self.positions = sum(len(text.continuation) for text in texts)
        self._batch = StackedBatch(target, texts, steps, draft_config.attention_window)
        self._weights = draft_weights(target, SkipMask.empty(target.depth), draft_config)
        size, targets = draft_config.vocab_size, self._batch.targets
        # (S, M·J) bool
        self._learnable = None if size is None else _learnable(target, texts, targets, size)
        self._max_width = max(1, stacked_rows // self._batch.queries.numel())
        self._runners: dict[int, LayerRunner] = {}
        self._patches: dict[tuple[int, int], Patch] = {}

    def score(self, masks: Sequence[SkipMask]) -> list[Trace]:
        """One trace per mask, in order; equal to scoring them one at a time."""
        distinct = list(dict.fromkeys(masks))
        self._weights.prepare()
        with torch.inference_mode(), self._weights.patch:
            traces = self.read_out(self._run_layers(distinct))
        found = dict(zip(distinct, traces, strict=True))
        return [found[mask] for mask in masks]

    @property
    def embedded(self) -> Tensor:
        """Input of the first layer, the same for every mask.  # (S, M·J, H)"""
        with torch.inference_mode():
            return self._runner(1).embedded

    @property
    def valid(self) -> Tensor:
        """Rows that lie within their text.  # (S, M·J) bool"""
        return self._batch.targets >= 0

    @torch.inference_mode()
    def advance(
        self, layer: DecoderLayer, states: Sequence[Tensor], wanted: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """Run one layer; states that skip the same sublayers of it are stacked.

        Args:
            states: before the layer.  # each (S, M·J, H)
            wanted: for each result, the index of its state and what to skip in this layer: bit 0 =
                attention, bit 1 = MLP.

        Returns:
            The states after the layer, one for each of `wanted`.  # each (S, M·J, H)
        """
        found: dict[int, Tensor] = {}
        for skip in sorted({skip for _, skip in wanted}):
            members = [i for i, (_, each) in enumerate(wanted) if each == skip]
            inputs = [states[wanted[i][0]] for i in members]
            outputs = inputs if skip == BOTH else self._run_layer(layer, skip, inputs)
            found.update(zip(members, outputs, strict=True))
        return [found[i] for i in range(len(wanted))]

    @torch.inference_mode()
    def read_out(self, states: Sequence[Tensor]) -> list[Trace]:
        """One trace per state after the last layer.  # each (S, M·J, H)"""
        return [trace for group in self._groups(states) for trace in self._traces(group)]

    def _run_layers(self, masks: Sequence[SkipMask]) -> list[Tensor]:
        """States after the last layer, one per mask; common prefixes are computed once."""
        states = [self.embedded]
        state_of = [0] * len(masks)
        for layer in self.target.layers:
            wanted: dict[tuple[int, int], int] = {}
            for i, mask in enumerate(masks):
                key = (state_of[i], _skip_bits(mask, layer.index))
                state_of[i] = wanted.setdefault(key, len(wanted))
            states = self.advance(layer, states, list(wanted))
        return [states[i] for i in state_of]

    def _run_layer(self, layer: DecoderLayer, skip: int, states: Sequence[Tensor]) -> list[Tensor]:
        outputs: list[Tensor] = []
        with self._patch(layer.index, skip):
            for group in self._groups(states):
                output = self._runner(len(group)).run(layer, torch.cat(group, 1))
                outputs += output.chunk(len(group), 1)
        return outputs

    def _traces(self, states: Sequence[Tensor]) -> Iterator[Trace]:
        width = len(states)
        logits = self._runner(width).logits(torch.cat(list(states), 1))  # (S, width·M·J, V)
        matched = self._matches(logits.argmax(-1), width).cpu().numpy()
        sure = confidence(logits.float()).cpu().numpy()
        shape = (*self._batch.shape, self._batch.steps)
        for m, c in zip(np.split(matched, width, 1), np.split(sure, width, 1), strict=True):
            yield Trace(m.reshape(shape), c.reshape(shape), self._batch.lengths)

    def _matches(self, chosen: Tensor, width: int) -> Tensor:
        """Where the likeliest outputs are the tokens of the texts.  # (S, width·M·J) both"""
        if self._weights.head is not None:
            chosen = self._weights.head.ids[chosen]
        matches = chosen == self._batch.targets.repeat(1, width)
        return matches if self._learnable is None else matches & self._learnable.repeat(1, width)

    def _groups(self, states: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """States that share a forward."""
        for first in range(0, len(states), self._max_width):
            yield list(states[first : first + self._max_width])

    def _runner(self, width: int) -> LayerRunner:
        """The runner for `width` stacked candidates; made once."""
        if width not in self._runners:
            self._runners[width] = LayerRunner(self.target, self._batch, width)
        return self._runners[width]

    def _patch(self, layer: int, skip: int) -> Patch:
        """Skips sublayers of one layer; made once, since every batch needs it."""
        if (layer, skip) not in self._patches:
            attention, mlp = ([layer] if skip & bit else [] for bit in (1, 2))
            mask = SkipMask.of(self.target.depth, attention, mlp)
            self._patches[layer, skip] = skipping(self.target, mask)
        return self._patches[layer, skip]


def _learnable(target: Target, texts: Sequence[ScoredText], targets: Tensor, size: int) -> Tensor:
    """Where a vocabulary of `size` tokens, made from the other texts, has the token of a text.

    A vocabulary made from all texts has all of their tokens, which the next text's may not be.

    Args:
        targets: tokens of the texts.  # (S, …)

    Returns:
        # (S, …) bool
    """
    rows = []
    for i, row in enumerate(targets):
        others = [text.tokens for j, text in enumerate(texts) if j != i]
        ids = frequent_vocabulary(target, others, size).ids
        rows.append(torch.isin(row, torch.from_numpy(ids).to(row.device)))
    return torch.stack(rows)


def _skip_bits(mask: SkipMask, layer: int) -> int:
    """0 … 3: bit 0 = attention skipped, bit 1 = MLP skipped."""
    return int(2 * layer in mask.skipped) + 2 * int(2 * layer + 1 in mask.skipped)
