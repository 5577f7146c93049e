"""Score many skip masks at once by teacher-forced drafts from every position of the texts.

The target's keys and values of each text are computed once. A candidate then drafts from all
scored positions in one teacher-forced pass. As in decoding, the tokens of a draft attend to the
*full model's* keys and values before its start, and to the draft's own from there on; a forward of
the draft model alone over the text would give another result. Teacher forcing is exact: the n-th
token of a draft counts only if all tokens before it were right, that is, equal to the text.

Candidates share forwards. At each layer, masks that are equal up to that layer share one state (a
trie of prefixes), and distinct states are stacked along the query axis. A candidate starts where
it first differs from a mask whose states are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import PromptError
from skipopt.masks import SkipMask
from skipopt.models.device_map import input_device
from skipopt.models.patch import Patch
from skipopt.models.skip import skipping
from skipopt.models.sublayers import DecoderLayer
from skipopt.models.target import Target
from skipopt.runtime.attention_mask import stored_order_reason
from skipopt.runtime.draft_mode import draft_weights
from skipopt.scoring.candidate_state import CandidateState
from skipopt.scoring.layer_runner import LayerRunner, not_scored
from skipopt.scoring.learnable import vocabularies_of_others
from skipopt.scoring.readout import Readout
from skipopt.scoring.stacked_batch import StackedBatch
from skipopt.scoring.stacked_states import within_memory
from skipopt.scoring.text_contexts import TextContexts
from skipopt.scoring.trace import ScoredText, Trace

# Rows of one stacked forward. More do not make a matrix product faster, but the mask grows.
STACKED_ROWS = 384
KEPT_BYTES = 1 << 28  # most memory for the states of kept masks
BOTH = 3  # attention and MLP
AGREEMENT_POSITIONS = 16
# Share of positions at which the choice must be the same. Sums in another order change the choice
# between tokens that are nearly as likely; in bfloat16 that is one position of thirty.
LEAST_AGREEMENT = 0.75


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
        contexts: the texts' keys and values, which scorers can share.

    Attributes:
        positions: scored positions of all texts.

    Raises:
        PromptError: no text has a position to score.
        NotScoredError: layers read an index that others computed, so that they cannot run one by
            one; the model goes by the order of stored rows, or its own cache is used; or drafts
            that skip nothing do not choose as the model does.
    """

    def __init__(
        self,
        target: Target,
        texts: Sequence[ScoredText],
        steps: int = 1,
        stacked_rows: int = STACKED_ROWS,
        draft_config: DraftConfig = UNCHANGED,
        contexts: TextContexts | None = None,
    ) -> None:
        if (reason := _not_scored_reason(target)) is not None:
            raise not_scored(target, reason)
        texts = within_memory(target, [text for text in texts if text.continuation])
        if not texts:
            raise PromptError(
                "no calibration text has a position to score",
                hint="give longer or more varied prompts",
            )
        self.target = target
        self.positions = sum(len(text.continuation) for text in texts)
        self._stacked_rows = stacked_rows
        with target.runtime.lock:
            target.runtime.refresh()
            self._weights = draft_weights(target, SkipMask.empty(target.depth), draft_config)
        contexts = contexts or TextContexts(target)
        self._batch = StackedBatch.of(
            contexts,
            texts,
            steps,
            stacked_rows,
            draft_config.attention_window,
        )
        size, targets = draft_config.vocab_size, self._batch.targets
        # (S, M·J) bool
        self._learnable = None if size is None else _learnable(target, texts, targets, size)
        self._states_patch = self._batch.states_patch()
        self._readout = Readout(target)
        self._patches: dict[tuple[int, int], Patch] = {}
        self._runners: dict[int, LayerRunner] = {}
        self._kept: dict[SkipMask, list[CandidateState]] = {}
        if draft_config.attention_window is None and not contexts.scoring_agrees:
            self._require_agreement(texts[0])
            contexts.scoring_agrees = True

    def part(self, texts: slice, positions: slice) -> Scorer:
        """A scorer of some positions of some texts, which shares this one's keys and values.

        Args:
            positions: with a start and a stop. Texts that end before it begins have no positions.
        """
        part = copy(self)
        part._batch = self._batch.part(texts, positions, self._stacked_rows)
        part.positions = int(part._batch.lengths.sum())
        part._states_patch = part._batch.states_patch()
        if self._learnable is not None:
            steps = self._batch.steps
            rows = slice(positions.start * steps, positions.stop * steps)
            part._learnable = self._learnable[texts, rows]
        part._runners, part._kept = {}, {}
        return part

    @property
    def shape(self) -> tuple[int, int]:
        """Texts, and positions of the longest one."""
        return self._batch.shape

    def no_trace(self) -> Trace:
        """A trace of which nothing is scored yet."""
        shape = (*self._batch.shape, self._batch.steps)
        lengths = np.zeros_like(self._batch.lengths)
        return Trace(np.zeros(shape, np.bool_), np.zeros(shape, np.float32), lengths)

    def score(self, masks: Sequence[SkipMask]) -> list[Trace]:
        """One trace per mask, in order; equal to scoring them one at a time."""
        distinct = list(dict.fromkeys(masks))
        with self._drafting():
            traces = self.read_out(self._run_layers(distinct))
        found = dict(zip(distinct, traces, strict=True))
        return [found[mask] for mask in masks]

    def keep(self, masks: Sequence[SkipMask]) -> None:
        """Compute and store the states of these masks at every layer, instead of earlier ones.

        Masks are scored from the layer on at which they first differ from one of these. Nothing is
        stored where the memory would be more than `KEPT_BYTES`.
        """
        most = KEPT_BYTES // (self.embedded.nbytes * (self.target.depth + 1))
        kept = {mask: self._kept[mask] for mask in masks if mask in self._kept}
        with self._drafting():
            for mask in dict.fromkeys(masks[:most]):
                kept[mask] = kept.get(mask) or self._path(mask)
        self._kept = kept

    @property
    def embedded(self) -> CandidateState:
        """Input of the first layer, the same for every mask."""
        with self._running():
            return CandidateState(self._runner(1).embedded)

    @property
    def valid(self) -> Tensor:
        """Rows that lie within their text.  # (S, M·J) bool"""
        return self._batch.targets >= 0

    def advance(
        self,
        layer: DecoderLayer,
        states: Sequence[CandidateState],
        wanted: Sequence[tuple[int, int]],
    ) -> list[CandidateState]:
        """Run one layer; states that skip the same sublayers of it are stacked.

        Args:
            states: before the layer.
            wanted: for each result, the index of its state and what to skip in this layer: bit 0 =
                attention, bit 1 = MLP.

        Returns:
            The states after the layer, one for each of `wanted`.
        """
        found: dict[int, CandidateState] = {}
        with self._running():
            for skip in sorted({skip for _, skip in wanted}):
                members = [i for i, (_, each) in enumerate(wanted) if each == skip]
                inputs = [states[wanted[i][0]] for i in members]
                unchanged = skip == BOTH and layer.can_be_bypassed
                outputs = inputs if unchanged else self._run_layer(layer, skip, inputs)
                found.update(zip(members, outputs, strict=True))
        return [found[i] for i in range(len(wanted))]

    def read_out(self, states: Sequence[CandidateState]) -> list[Trace]:
        """One trace per state after the last layer."""
        with self._running():
            return [trace for group in self._groups(states) for trace in self._traces(group)]

    def _require_agreement(self, text: ScoredText) -> None:
        """Raise NotScoredError unless drafts that skip nothing choose as the model does.

        A model that takes positions and a mask may yet go by the order of stored rows in some of
        its layers, which is another one here than in decoding.
        """
        count = min(len(text.continuation), AGREEMENT_POSITIONS)
        part = self.part(slice(0, 1), slice(0, count))
        whole = SkipMask.empty(self.target.depth)
        # The second of two, so that rows of another candidate are stored before its own.
        masks = [SkipMask(whole.layers, frozenset([i])) for i in sorted(self.target.skippable)[:1]]
        with self._running():
            state = part._run_layers([*masks, whole])[-1]
            chosen = self._readout.choose(state.rows(part.valid)).token.cpu()
            positions = part._batch.positions[part.valid].cpu()
            tokens = torch.tensor([text.tokens[: int(positions.max()) + 1]])
            output = self.target.model(
                input_ids=tokens.to(input_device(self.target.model)), use_cache=False
            )
        expected = output.logits[0].argmax(-1).cpu()[positions]
        if int((chosen == expected).sum()) < LEAST_AGREEMENT * len(positions):
            reason = "over several drafts at once it does not choose as it does over one text"
            raise not_scored(self.target, reason)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Inside, no other thread runs the model."""
        with self.target.runtime.lock, torch.inference_mode():
            yield

    @contextmanager
    def _drafting(self) -> Iterator[None]:
        """The same, and the model reads what the draft config says."""
        with self._running():
            self._weights.prepare()
            with self._weights.patch:
                yield

    def _path(self, mask: SkipMask) -> list[CandidateState]:
        """The states of one mask before each layer, and after the last one."""
        states = [self.embedded]
        for layer in self.target.layers:
            states += self.advance(layer, states[-1:], [(0, _skip_bits(mask, layer.index))])
        return states

    def _run_layers(self, masks: Sequence[SkipMask]) -> list[CandidateState]:
        """States after the last layer, one per mask; common prefixes are computed once."""
        start = [self.embedded]
        entries = [self._entry(mask, start) for mask in masks]
        states: list[CandidateState] = []
        state_of: dict[int, int] = {}  # index of a mask that has entered: of its state
        for layer in self.target.layers:
            entered: dict[int, int] = {}
            for i, (begin, path) in enumerate(entries):
                if begin == layer.index:
                    if id(path) not in entered:
                        entered[id(path)] = len(states)
                        states.append(path[begin])
                    state_of[i] = entered[id(path)]
            wanted: dict[tuple[int, int], int] = {}
            for i, state in state_of.items():
                key = (state, _skip_bits(masks[i], layer.index))
                state_of[i] = wanted.setdefault(key, len(wanted))
            states = self.advance(layer, states, list(wanted))
        return [
            states[state_of[i]] if i in state_of else path[-1]
            for i, (_, path) in enumerate(entries)
        ]

    def _entry(
        self, mask: SkipMask, start: list[CandidateState]
    ) -> tuple[int, list[CandidateState]]:
        """The layer that a mask starts at, and the states before each layer up to that one."""
        best = 0, start
        for kept, path in self._kept.items():
            begin = min(mask.skipped ^ kept.skipped, default=2 * self.target.depth) // 2
            if begin > best[0]:
                best = begin, path
        return best

    def _run_layer(
        self, layer: DecoderLayer, skip: int, states: Sequence[CandidateState]
    ) -> list[CandidateState]:
        outputs: list[CandidateState] = []
        with self._states_patch, self._patch(layer.index, skip):
            for group in self._groups(states):
                outputs += self._runner(len(group)).run(layer, group)
        return outputs

    def _traces(self, states: Sequence[CandidateState]) -> Iterator[Trace]:
        valid = self.valid
        choice = self._readout.choose(torch.cat([state.rows(valid) for state in states], -2))
        confidence = choice.confidence.view(len(states), -1)
        matches = self._matches(choice.token.view(len(states), -1)) & (confidence > 0)
        matched, sure = matches.cpu().numpy(), confidence.cpu().numpy()
        where = valid.cpu().numpy()
        for m, c in zip(matched, sure, strict=True):
            yield Trace(self._spread(m, where), self._spread(c, where), self._batch.lengths)

    def _spread(self, values: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[Any]:
        """Values of the valid rows, and zeros between them.  # (rows,) -> (S, M, J)"""
        whole = np.zeros(where.shape, values.dtype)
        whole[where] = values
        return whole.reshape(*self._batch.shape, self._batch.steps)

    def _matches(self, chosen: Tensor) -> Tensor:
        """Where the likeliest outputs are the tokens of the texts.  # (states, valid rows) both"""
        if self._weights.head is not None:
            chosen = self._weights.head.ids[chosen]
        valid = self.valid
        matches = chosen == self._batch.targets[valid].to(chosen.device)
        if self._learnable is None:
            return matches
        return matches & self._learnable[valid].to(chosen.device)

    def _groups(self, states: Sequence[CandidateState]) -> Iterator[list[CandidateState]]:
        """States that share a forward."""
        width = self._batch.width
        for first in range(0, len(states), width):
            yield list(states[first : first + width])

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


def _not_scored_reason(target: Target) -> str | None:
    """What the model has that does not run over several drafts at once; None if nothing."""
    feeding = [layer for layer in target.layers if layer.feeds_others]
    if feeding and not all(layer.feeds_keys for layer in feeding):
        attention = f"the attention of layer {feeding[0].index}"
        return f"later layers read an index that {attention} computes"
    if target.keeps_own_cache:
        return "its cache holds one draft at a time"
    if reason := stored_order_reason(target.model):
        return f"{reason}; drafts that are scored are stored one after another"
    return None


def _learnable(target: Target, texts: Sequence[ScoredText], targets: Tensor, size: int) -> Tensor:
    """Where a vocabulary of `size` tokens, made from the other texts, has the token of a text.

    Args:
        targets: tokens of the texts.  # (S, …)

    Returns:
        # (S, …) bool
    """
    ids = vocabularies_of_others(target, texts, size)
    rows = zip(targets, ids, strict=True)
    return torch.stack([torch.isin(row, torch.from_numpy(x).to(row.device)) for row, x in rows])


def _skip_bits(mask: SkipMask, layer: int) -> int:
    """0 … 3: bit 0 = attention skipped, bit 1 = MLP skipped."""
    return int(2 * layer in mask.skipped) + 2 * int(2 * layer + 1 in mask.skipped)
