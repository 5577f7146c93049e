"""The states of recurrent layers before each draft of the scored texts.

Attention tells the drafts of one row of queries apart by a mask. A recurrence cannot, so a module
that keeps states runs over the drafts as a batch, each from the full model's states before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from skipopt.models.patch import Forward, Patch
from skipopt.models.target import Target
from skipopt.models.text_states import StateModule, in_parts
from skipopt.runtime.engine import Engine
from skipopt.scoring.text_contexts import TextContexts
from skipopt.scoring.trace import ScoredText

MOST_BYTES = 1 << 30  # of the states of all drafts

# By layer and number: of the convolution and of the recurrence, as far as there is one.
# (S, M, …) each
Stacked = dict[tuple[int, int], tuple[Tensor | None, Tensor | None]]


@dataclass(frozen=True, slots=True, eq=False)
class StackedStates:
    """States before M drafts of J tokens for each of S texts.

    Attributes:
        modules: what reads the states.
        stacked: the states.
        steps: J.
    """

    modules: Sequence[StateModule]
    stacked: Stacked
    steps: int

    @classmethod
    def of(
        cls, contexts: TextContexts, texts: Sequence[ScoredText], steps: int
    ) -> StackedStates | None:
        """Those of the texts; None if the model keeps no states."""
        modules = [each for layer in contexts.target.layers for each in layer.state_modules]
        if not modules:
            return None
        read = [contexts.states(text) for text in texts]
        longest = max(map(len, read))
        read = [states + [states[-1]] * (longest - len(states)) for states in read]
        keys = [(each.layer, number) for each in modules for number in each.states]
        stacked = {
            key: (
                _stacked([[states[key].conv for states in text] for text in read]),
                _stacked([[states[key].recurrent for states in text] for text in read]),
            )
            for key in keys
        }
        return cls(modules, stacked, steps)

    def part(self, texts: slice, positions: slice) -> StackedStates:
        """The states of some drafts of some texts, in the same memory."""
        stacked: Stacked = {}
        for key, (conv, recurrent) in self.stacked.items():
            stacked[key] = (
                None if conv is None else conv[texts, positions],
                None if recurrent is None else recurrent[texts, positions],
            )
        return StackedStates(self.modules, stacked, self.steps)

    def patch(self, cache: Cache) -> Patch:
        """Inside, modules that keep states run over the drafts as a batch.

        Args:
            cache: that the modules are given.
        """
        changes = [(each.module, self._forward(each, cache)) for each in self.modules]
        return Patch(changes)

    def _forward(self, module: StateModule, cache: Cache) -> Forward:
        return partial(self._run, module, module.module.forward, cache)

    def _run(
        self, module: StateModule, forward: Forward, cache: Cache, /, *args: Any, **kwargs: Any
    ) -> Any:
        """The module over rows (S, width·M·J, …); its arguments may have any name, as `cache`."""
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        texts, rows = hidden.shape[:2]
        self._set(cache, module, rows)
        batch = partial(_as_batch, shape=(texts, rows), steps=self.steps)
        bounds = range(self.steps + 1) if module.one_by_one else (0, self.steps)
        output = in_parts(
            forward,
            bounds,
            {},
            *(batch(each) for each in args),
            **{name: batch(each) for name, each in kwargs.items()},
        )
        return _as_rows(output, (texts, rows), self.steps)

    def _set(self, cache: Cache, module: StateModule, rows: int) -> None:
        """Set the states in the cache to those before the drafts, once for each candidate."""
        layer: Any = cache.layers[module.layer]
        for number in module.states:
            conv, recurrent = self.stacked[module.layer, number]
            layer.has_previous_state[number] = True
            for states, given, known in (
                (layer.conv_states, conv, layer.is_conv_states_initialized),
                (layer.recurrent_states, recurrent, layer.is_recurrent_states_initialized),
            ):
                if given is not None:
                    width = rows // (given.shape[1] * self.steps)
                    each = given[:, None].expand(-1, width, *given.shape[1:])
                    states[number] = each.flatten(0, 2).clone()
                    known[number] = True
            if conv is not None:
                layer.conv_kernel_size[number] = conv.shape[-1]


def _stacked(found: Sequence[Sequence[Tensor | None]]) -> Tensor | None:
    """One state of all drafts; zeros at the start of a text.  # (S, M, …)"""
    some = next((each for text in found for each in text if each is not None), None)
    if some is None:
        return None
    empty = torch.zeros_like(some)
    rows = [torch.cat([empty if each is None else each for each in text]) for text in found]
    return torch.stack(rows)


def _as_batch(value: Any, shape: tuple[int, int], steps: int) -> Any:
    """Rows (S, width·M·J, …) as (S·width·M, J, …), also in a tuple; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_as_batch(each, shape, steps) for each in value)
    if isinstance(value, Tensor) and value.ndim > 2 and value.shape[:2] == shape:
        return value.reshape(-1, steps, *value.shape[2:])
    return value


def _as_rows(value: Any, shape: tuple[int, int], steps: int) -> Any:
    """The opposite of `_as_batch`."""
    if isinstance(value, tuple):
        return tuple(_as_rows(each, shape, steps) for each in value)
    batch = shape[0] * shape[1] // steps
    if isinstance(value, Tensor) and value.ndim > 2 and value.shape[:2] == (batch, steps):
        return value.reshape(*shape, *value.shape[2:])
    return value


def within_memory(target: Target, texts: Sequence[ScoredText]) -> list[ScoredText]:
    """The texts, with fewer scored tokens where the states of all drafts take too much memory."""
    if not target.keeps_states:
        return list(texts)
    most = max(1, MOST_BYTES // _state_bytes(target) // max(1, len(texts)))
    return [ScoredText(text.tokens[: text.scored_from + most], text.scored_from) for text in texts]


def _state_bytes(target: Target) -> int:
    """Bytes of the states of one text."""
    engine = Engine(target, 1, captured=False)
    engine.step([0])
    assert engine.states is not None
    return engine.states.allocated_bytes
