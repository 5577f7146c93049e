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
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from skipopt.errors import PromptError
from skipopt.levers import NO_LEVERS, Levers
from skipopt.masks import SkipMask
from skipopt.models.sublayers import DecoderLayer
from skipopt.models.target import Target
from skipopt.patching import Forward, Patch
from skipopt.runtime.cache import SINKS
from skipopt.runtime.cheapening import coarser_weights
from skipopt.runtime.engine import Engine
from skipopt.sampling import confidence
from skipopt.skipping import skipping

# Rows of one stacked forward; more do not speed up a matrix product, but the mask grows.
STACKED_ROWS = 768


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens the target wrote: `tokens[:scored_from]` is context, the rest is scored."""

    tokens: tuple[int, ...]
    scored_from: int

    @property
    def continuation(self) -> tuple[int, ...]:
        return self.tokens[self.scored_from :]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What one candidate did from every scored position of every text.

    Attributes:
        matched: did the argmax of a draft's j-th token, begun here, equal the target's token?
            # (S, M, J)
        confidence: how sure the draft was of it, at temperature 1.  # (S, M, J) float32
        lengths: scored positions of each text; rows behind them, and tokens of drafts that
            reach beyond, mean nothing.  # (S,)
    """

    matched: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    lengths: NDArray[np.int64]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which tokens of which drafts are of a text.  # (S, M, J)"""
        _, rows, steps = self.matched.shape
        place = np.arange(rows)[:, None] + np.arange(steps)
        return place < self.lengths[:, None, None]

    @property
    def matchness(self) -> float:
        """Teacher-forced share of positions where the draft's argmax is the target's token."""
        return float(self.matched[..., 0][self.valid[..., 0]].mean())

    @property
    def matchness_of_each(self) -> tuple[float, ...]:
        """Of each text alone."""
        hits = (self.matched & self.valid)[..., 0].sum(1)
        return tuple((hits / self.lengths).tolist())

    @classmethod
    def joined(cls, traces: Sequence[Trace]) -> Trace:
        """One of all texts; the shorter ones are padded by what means nothing."""
        rows = max(trace.matched.shape[1] for trace in traces)

        def join(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
            return np.concatenate(
                [np.pad(part, ((0, 0), (0, rows - part.shape[1]), (0, 0))) for part in parts]
            )

        return cls(
            join([trace.matched for trace in traces]),
            join([trace.confidence for trace in traces]),
            np.concatenate([trace.lengths for trace in traces]),
        )


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
        texts: Sequence[Text],
        steps: int = 1,
        stacked_rows: int = STACKED_ROWS,
        levers: Levers = NO_LEVERS,
    ) -> None:
        texts = [t for t in texts if t.continuation]
        if not texts:
            raise PromptError(
                "no calibration text has a position to score",
                hint="give longer or more varied prompts",
            )
        self.target = target
        self.positions = sum(len(t.continuation) for t in texts)
        self._batch = _Batch(target, texts, steps, levers.window)
        self._weights = coarser_weights(target, SkipMask.empty(target.depth), levers.bits)
        self._wide = max(1, stacked_rows // self._batch.queries.numel())
        self._frames: dict[int, _Frame] = {}
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
            self._patches[layer, choice] = skipping(self.target.layers, mask)
        return self._patches[layer, choice]

    def _frame(self, width: int) -> _Frame:
        """The layers' arguments for `width` stacked candidates; they do not depend on masks."""
        if width not in self._frames:
            self._frames[width] = _Frame(self.target, self._batch, width)
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


class _Batch:
    """The scored texts as tensors, with the full model's keys and values.

    One row for each token of each draft, those of a draft in a row.

    queries, targets, positions, starts: (S, M·J); targets beyond a text's end are −1. `starts` are
    the places before which a row sees the full model's keys. `window`: see `Levers`.
    """

    def __init__(
        self, target: Target, texts: Sequence[Text], steps: int, window: int | None
    ) -> None:
        device = target.device
        self.steps = steps
        self.window = window
        self.context = max(len(t.tokens) for t in texts)
        self.lengths = np.array([len(t.continuation) for t in texts])
        self.shape = len(texts), int(self.lengths.max())
        rows = [_draft_rows(text, self.shape[1], steps) for text in texts]
        self.queries, self.targets, self.starts, self.positions = (
            torch.stack(parts).to(device) for parts in zip(*rows, strict=True)
        )
        self.keys, self.values = _full_context(target, texts, self.context)


def _draft_rows(text: Text, count: int, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, targets, starts and positions of `count` drafts of one text.  # each (M·J,)

    Rows beyond the end repeat a place inside, so that they do no harm.
    """
    end = len(text.tokens) - 1  # the last token is only a target
    starts = text.scored_from - 1 + torch.arange(count)
    places = starts[:, None] + torch.arange(steps)
    tokens = torch.tensor(text.tokens)
    targets = torch.where(places < end, tokens[(places + 1).clamp(max=end)], -1)
    places = places.clamp(max=end - 1)
    starts = starts[:, None].clamp(max=end - 1).expand_as(places)
    return tuple(t.flatten() for t in (tokens[places], targets, starts, places))  # type: ignore[return-value]


def _full_context(
    target: Target, texts: Sequence[Text], length: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Every layer's keys and values of every text, padded at the end.  # (S, heads, N, D)"""
    keys: list[list[Tensor]] = [[] for _ in target.layers]
    values: list[list[Tensor]] = [[] for _ in target.layers]
    for text in texts:
        engine = Engine(target, length)
        engine.prefill(text.tokens)
        for index, (key, value) in enumerate(engine.cache.contents()):
            keys[index].append(key)
            values[index].append(value)
    return [torch.cat(k) for k in keys], [torch.cat(v) for v in values]


class _Frame:
    """What every layer is called with when `width` candidates are stacked.

    One forward of the full model with the context keys finds it: the arguments (positions,
    rotary embeddings, mask) depend on the texts alone. Also holds the embedded queries.
    """

    def __init__(self, target: Target, batch: _Batch, width: int) -> None:
        self._target = target
        self._width = width
        self._queries = batch.queries.repeat(1, width)
        cache = _ContextCache(batch, self._queries.shape[1])
        self._inputs = {
            "input_ids": self._queries,
            "position_ids": batch.positions.repeat(1, width),
            "attention_mask": attention_mask(target, batch, width),
            "past_key_values": cache,
            "use_cache": True,
        }
        self._calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._observe()
        args, kwargs = self._calls[0]
        self.embedded: Tensor = args[0] if args else kwargs["hidden_states"]

    def _observe(self) -> None:
        handles = [
            layer.whole.module.register_forward_pre_hook(self._keep(layer.index), with_kwargs=True)
            for layer in self._target.layers
        ]
        try:
            self._target.model(**self._inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, index: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._calls[index] = (args, kwargs)

        return hook

    def run(self, layer: DecoderLayer, hidden: Tensor) -> Tensor:
        """One layer over stacked hidden states.  # (S, width·M, H)"""
        args, kwargs = self._calls[layer.index]
        if args:
            output = layer.whole.module(hidden, *args[1:], **kwargs)
        else:
            output = layer.whole.module(**{**kwargs, "hidden_states": hidden})
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def logits(self, hidden: Tensor) -> Tensor:
        """The model's own way from the last hidden state to logits: every layer hands it on."""
        layers = self._target.layers
        changes: list[tuple[Any, Forward]] = [
            (layer.whole.module, lambda *a, **k: layers[0].whole.wrap(hidden)) for layer in layers
        ]
        with Patch(changes):
            logits: Tensor = self._target.model(**self._inputs).logits
        return logits


class _ContextCache(Cache):
    """Full-model keys and values of the texts, then one place per query for the draft's own."""

    def __init__(self, batch: _Batch, queries: int) -> None:
        pairs = zip(batch.keys, batch.values, strict=True)
        super().__init__(layers=[_ContextLayer(k, v, queries) for k, v in pairs])


class _ContextLayer(CacheLayerMixin):
    is_sliding = False
    is_compileable = False

    def __init__(self, keys: Tensor, values: Tensor, queries: int) -> None:
        super().__init__()
        self.context = keys.shape[-2]
        self.keys = torch.cat(
            [keys, keys.new_zeros(*keys.shape[:-2], queries, keys.shape[-1])], -2
        )
        self.values = torch.cat(
            [values, values.new_zeros(*values.shape[:-2], queries, values.shape[-1])], -2
        )
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        return None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        self.keys[:, :, self.context :] = key_states
        self.values[:, :, self.context :] = value_states
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.context + query_length, 0

    def get_seq_length(self) -> int:
        return self.context

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # the name of the same thing before transformers 5.20


def attention_mask(target: Target, batch: _Batch, width: int) -> Any:
    """Each row sees the full model's context before its draft, and its draft up to itself.

    # additive, (S, 1, W, N + W), W = width·M·J

    Windows of sliding layers are built in; models that mix sliding and full layers take a
    dictionary of masks, one per layer type.
    """
    config = target.model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds == {"full_attention"} or getattr(config, "use_sliding_window", True) is False:
        window = None
    if "sliding_attention" in kinds and len(kinds) > 1:
        spans = {kind: window if kind == "sliding_attention" else None for kind in kinds}
        return {kind: _additive(target, batch, width, span) for kind, span in spans.items()}
    return _additive(target, batch, width, window)


def _additive(target: Target, batch: _Batch, width: int, window: int | None) -> Tensor:
    positions, starts = (t.repeat(1, width) for t in (batch.positions, batch.starts))  # (S, W)
    keys = torch.arange(batch.context, device=positions.device)
    seen = keys < starts[..., None]
    rows = positions.shape[1]
    order = torch.arange(rows, device=positions.device)
    drafts = order // batch.steps
    own = (drafts == drafts[:, None]) & (order <= order[:, None])
    own = own.expand(len(positions), -1, -1)
    if batch.window is not None:  # only where no layer has a window of its own
        seen &= (keys > positions[..., None] - batch.window) | (keys < SINKS)
        near = positions[:, None] > positions[..., None] - batch.window
        own = own & (near | (positions[:, None] < SINKS))
    if window is not None:
        seen &= keys > positions[..., None] - window
        own = own & (positions[:, None] > positions[..., None] - window)
    allowed = torch.cat([seen, own], -1)[:, None]
    mask = torch.zeros(allowed.shape, dtype=target.model.dtype, device=positions.device)
    return mask.masked_fill_(~allowed, torch.finfo(mask.dtype).min)


def _choice(mask: SkipMask, layer: int) -> int:
    """0 … 3: bit 0 = attention skipped, bit 1 = MLP skipped."""
    return int(2 * layer in mask.skipped) + 2 * int(2 * layer + 1 in mask.skipped)


def _one_layer(depth: int, layer: int, choice: int) -> SkipMask:
    return SkipMask.of(depth, [layer] if choice & 1 else (), [layer] if choice & 2 else ())


def _chunks(items: list[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
    for first in range(0, len(items), size):
        yield first, items[first : first + size]
