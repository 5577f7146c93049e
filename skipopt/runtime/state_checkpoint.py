"""The states of a text's recurrent layers and convolutions, with a copy from which to go on.

Such states are those after the last token that was read, so they cannot be rewound to a position
before it. A copy is kept of a text position that is certain, the checkpoint. After a rejected
draft, the states are set back to it, and the next forward reads the tokens since then once more,
in front of its own rows: at most one draft and one token. That forward also moves the checkpoint
up to its own position, in the middle of its rows (see `in_parts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from skipopt.models.patch import Patch
from skipopt.models.text_states import StateModule, in_parts
from skipopt.runtime.kv_cache import StateLayer

UNKNOWN = -1  # position of states that have read tokens which were dropped
NOWHERE = 1 << 62  # position of a copy of which only a part was made


class State(NamedTuple):
    """One state of a layer.

    Attributes:
        has_read: whether it has read a token.
        conv, recurrent: the state of a convolution and that of a recurrence, if there is one.
    """

    has_read: bool = False
    conv: Tensor | None = None
    recurrent: Tensor | None = None


States = dict[tuple[int, int], State]  # by index of the layer, and number in the layer


class StateCheckpoint:
    """The states in the layers of a cache, and a copy of those at a position of the text.

    Args:
        layers: of the cache, by index; those that keep states.
        modules: what reads and writes the states.
        num_slots: tokens that the cache has memory for.

    Attributes:
        position: tokens that the saved states have read.
        tokens: those of the text, by position; `forward_ran` stores them.  # (num_slots,)
    """

    def __init__(
        self,
        layers: Mapping[int, StateLayer],
        modules: Sequence[StateModule],
        num_slots: int,
        device: torch.device,
    ) -> None:
        self.position = 0
        self.tokens = torch.zeros(num_slots, dtype=torch.long, device=device)
        self._layers = layers
        self._modules = modules
        self._read = 0  # tokens that the states in the layers have read
        self._drafted = False  # whether the draft model has read some of them
        self._saved: States = {}
        self._convolved = {
            (each.layer, n) for each in modules if each.convolves for n in each.states
        }

    def begin(self, position: int, count: int, drafting: bool) -> int:
        """Prepare a forward of `count` rows that begins at `position`.

        Args:
            drafting: whether the draft model runs.

        Returns:
            From which position on tokens must be read: `position`, or an earlier one where the
            states had to be set back.
        """
        self._listen_no_more()
        if self._read != position:
            self._set_back(position)
            start = self.position
        else:
            start = position
            # A single row of the whole model is hardly ever dropped.
            if not self._drafted and self.position != position and (drafting or count > 1):
                self._save_all(position)
        self._read = UNKNOWN  # if the forward fails
        return start

    def forward_ran(self, position: int, tokens: Tensor, drafting: bool) -> None:
        """Note that a forward over these tokens, from `position` on, has run."""
        end = position + len(tokens)
        if self.position == NOWHERE:
            self.position = position
        self.tokens[position:end] = tokens
        self._listen_no_more()
        self._read = end
        self._drafted = self._drafted or drafting

    def reading(self, start: int, rows: int, first: int) -> Patch:
        """A patch for a forward of `rows` rows from `start` on.

        Args:
            first: number of rows after which the checkpoint is moved; 0 if it stays.
        """
        changes = []
        for each in self._modules:
            if each.convolves:
                if first:
                    self._layers[each.layer].on_inputs = partial(
                        self._save_inputs, each.layer, first
                    )
                continue
            bounds = {0, first, rows}
            if each.one_by_one:
                # The start of a text needs no states.
                bounds |= set(range(first if start == 0 else 0, rows))
            if first or (each.one_by_one and start):
                after = {first: partial(self._save, each)} if first else {}
                run = partial(in_parts, each.module.forward, sorted(bounds), after)
                changes.append((each.module, run))
        if first:
            self.position = NOWHERE  # if the forward fails
        return Patch(changes)

    def current(self) -> States:
        """Copies of the states as they are now."""
        found: States = {}
        for index, layer in self._layers.items():
            for number in range(layer.number_of_states):
                found[index, number] = _copied(_state(layer, number), State())
        return found

    def forget(self) -> None:
        """Go back to the start of a text."""
        self.position, self._saved = 0, {}

    @property
    def allocated_bytes(self) -> int:
        """Memory of the states and of their copy."""
        saved = (each for _, *parts in self._saved.values() for each in parts)
        live = (
            each
            for layer in self._layers.values()
            for states in (layer.conv_states, layer.recurrent_states)
            for each in states.values()
        )
        return sum(t.numel() * t.element_size() for t in (*saved, *live) if t is not None)

    def _save_all(self, position: int) -> None:
        for each in self._modules:
            self._save(each)
        self.position = position

    def _save(self, module: StateModule) -> None:
        layer = self._layers[module.layer]
        for number in module.states:
            key = module.layer, number
            self._saved[key] = _copied(_state(layer, number), self._saved.get(key, State()))

    def _save_inputs(self, layer: int, first: int, number: int, every: Tensor, rows: int) -> None:
        """Save the state of a convolution after the `first` rows of a forward.

        Args:
            every: its inputs before the forward, followed by those of the rows.  # (B, d, K + n)
        """
        if (layer, number) not in self._convolved:
            return
        size = self._layers[layer].conv_kernel_size[number]
        assert size is not None
        inputs = every[..., : every.shape[-1] - rows + first]
        state = State(True, pad(inputs, (size, 0))[..., -size:])
        key = layer, number
        self._saved[key] = _copied(state, self._saved.get(key, State()))

    def _listen_no_more(self) -> None:
        for layer in self._layers.values():
            layer.on_inputs = None

    def _set_back(self, position: int) -> None:
        """Set the states back to the checkpoint, or to the start if that is later."""
        if self.position > position:
            self.forget()
        for module in self._modules:
            layer = self._layers[module.layer]
            for number in module.states:
                saved = self._saved.get((module.layer, number), State())
                layer.has_previous_state[number] = saved.has_read
                _set(layer.conv_states[number], saved.conv)
                _set(layer.recurrent_states[number], saved.recurrent)
        self._drafted = False


def _state(layer: StateLayer, number: int) -> State:
    conv, recurrent = layer.conv_states[number], layer.recurrent_states[number]
    return State(layer.has_previous_state[number], conv, recurrent)


def _copied(state: State, before: State) -> State:
    """A copy, in the memory of an earlier one as far as there is one."""
    conv = _copied_tensor(state.conv, before.conv)
    return State(state.has_read, conv, _copied_tensor(state.recurrent, before.recurrent))


def _copied_tensor(state: Tensor | None, before: Tensor | None) -> Tensor | None:
    if state is None:
        return None
    return state.clone() if before is None else before.copy_(state)


def _set(state: Tensor | None, saved: Tensor | None) -> None:
    """Set a state to its copy; to zeros if it had read nothing then."""
    if state is not None:
        state.zero_() if saved is None else state.copy_(saved)
