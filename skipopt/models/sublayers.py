"""The attention and MLP sublayers of a decoder layer; `proof` finds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.errors import ModelError
from skipopt.masks import SublayerKind
from skipopt.models.patch import Forward
from skipopt.models.text_states import PLAIN, CachedParts, StateModule


def stream_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The residual stream, or what was made of it, among the arguments of a forward."""
    if args:
        given: Tensor = args[0]
    elif "hidden_states" in kwargs:
        given = kwargs["hidden_states"]
    else:
        given = next(each for each in kwargs.values() if isinstance(each, Tensor))
    return given


@dataclass(frozen=True, slots=True)
class Sublayer:
    """A module and how it returns.

    Attributes:
        arity: 0 if it returns a tensor, else the length of the sequence, whose first item is one.
        width: size of that tensor's last dimension.
        residual: the argument that it adds to what it computes, by position or name; None if it
            adds nothing.
        sequence: of which type the sequence is.
    """

    module: nn.Module
    arity: int
    width: int
    residual: int | str | None = None
    sequence: type[tuple[Any, ...] | list[Any]] = tuple

    def wrap(self, out: Tensor) -> Any:
        """`out`, returned as the module returns."""
        return out if self.arity == 0 else self.sequence([out, *[None] * (self.arity - 1)])

    def zeros(self, *args: Any, **kwargs: Any) -> Any:
        """A forward without what the module computes: zeros, or the residual that it adds to.

        The zeros are new each time, since callers may add in place.
        """
        if self.residual is not None:
            given: Any = args if isinstance(self.residual, int) else kwargs
            return self.wrap(given[self.residual].clone())
        hidden = stream_of(args, kwargs)
        if hidden.shape[-1] == self.width:
            return self.wrap(torch.zeros_like(hidden))
        return self.wrap(hidden.new_zeros(*hidden.shape[:-1], self.width))

    def muted(self, forward: Forward, /, *args: Any, **kwargs: Any) -> Any:
        """A forward that runs the module, and returns zeros in place of its tensor.

        Args:
            forward: of the module.
        """
        output = forward(*args, **kwargs)
        if self.arity == 0:
            return torch.zeros_like(output)
        return self.sequence([torch.zeros_like(output[0]), *output[1:]])

    def identity(self, *args: Any, **kwargs: Any) -> Any:
        """A forward that returns its input: that of a layer without both sublayers."""
        return self.wrap(stream_of(args, kwargs))


def identity_norm(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A forward that returns its input: that of a norm which only a skipped sublayer reads."""
    return hidden


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer.

    Attributes:
        block: the layer itself.
        attention, mlp: the modules of each sublayer, which add to the residual stream. A
            recurrent mixer counts as an attention, and stands beside one in some models.
            Empty where there is no such sublayer, or where it was not proved that it can be left
            out: then it runs, whatever a mask says.
        branch_norms: by sublayer, the modules (mostly norms) whose output reaches the residual
            stream through that sublayer only, so that they can be skipped with it.
        passes_unchanged: whether the layer returns its input where all its sublayers are left
            out, so that it can be skipped whole.
        cached: what the layer keeps of a text.
        state_modules: the modules that keep states of it.
        feeds_others: whether later layers read what its attention computes: keys and values, or
            an index.
        feeds_keys: whether that is keys and values, in a mapping that all layers are given.
    """

    index: int
    block: Sublayer
    attention: tuple[Sublayer, ...]
    mlp: tuple[Sublayer, ...]
    branch_norms: Mapping[SublayerKind, tuple[nn.Module, ...]]
    passes_unchanged: bool = True
    cached: CachedParts = PLAIN
    state_modules: tuple[StateModule, ...] = ()
    feeds_others: bool = False
    feeds_keys: bool = False

    @property
    def can_be_bypassed(self) -> bool:
        """Whether the layer need not run at all when both of its sublayers are skipped."""
        return self.passes_unchanged and not self.feeds_others

    def branches(self, kind: SublayerKind) -> tuple[Sublayer, ...]:
        """The modules of one sublayer, of which there may be several, or none."""
        return self.attention if kind == "attention" else self.mlp


def check_layers(model: nn.Module, layers: Sequence[DecoderLayer]) -> None:
    """Check that the layers that were proved are still those of the model.

    Masks would not reach others, and an early exit would compute them on other states.

    Raises:
        ModelError: a layer, or one of its sublayers, was replaced, moved, added or left out.
    """
    present = {module: place for place, module in enumerate(model.modules())}
    config: Any = model.config
    known = getattr(config.get_text_config(decoder=True), "num_hidden_layers", len(layers))
    places = [present.get(layer.block.module, -1) for layer in layers]
    gone = [layer.index for layer in layers if not present.keys() >= set(_proved_modules(layer))]
    changed = known % len(layers) != 0 or not _is_whole_list(model, layers)
    if gone or changed or places != sorted(places):
        what = f"decoder layer {gone[0]} was" if gone else "the decoder layers were"
        raise ModelError(
            f"{what} replaced after the model was loaded",
            hint="load it again: skipopt.load((model, tokenizer))",
        )


def _is_whole_list(model: nn.Module, layers: Sequence[DecoderLayer]) -> bool:
    """Whether the list of modules that begins with the first layer has as many as all layers.

    The layer may be inside another module there.
    """
    lists = (each for each in model.modules() if isinstance(each, nn.ModuleList))
    first = layers[0].block.module
    return any(
        any(module is first for module in each[0].modules())
        for each in lists
        if len(each) == len(layers)
    )


def _proved_modules(layer: DecoderLayer) -> Iterator[nn.Module]:
    """The layer, and its sublayers."""
    yield layer.block.module
    yield from (each.module for each in (*layer.attention, *layer.mlp))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode; every module's own mode is restored afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
