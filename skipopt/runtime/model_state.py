"""Notices that a model was changed, so that no copy of its weights goes stale.

Compared are the modules, their plain attributes, places and versions of all tensors, and values:
all of small tensors, and some of each large one, since torch counts no version where values are
written through `.data`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.runtime.plain_values import CONTAINERS, SCALARS, PlainValues

SAMPLED_VALUES = 64  # of each large tensor
FULL_VALUES = 1024  # tensors up to this size are compared whole
# Attributes of every module that hold others; what is in them is compared in another way.
HOLDERS = {"_parameters", "_buffers", "_modules"}
HOOKS = {key for key, value in nn.Module().__dict__.items() if isinstance(value, dict)} - HOLDERS
# Attributes that no forward reads as numbers or texts.
NOT_READ = HOLDERS | {"generation_config"}
# Hooks that torch calls for every module.
GLOBAL_HOOKS: tuple[dict[int, Any], ...] = tuple(
    value
    for name, value in vars(torch.nn.modules.module).items()
    if name.startswith("_global_") and isinstance(value, dict)
)


# By module and name of an attribute: the module, and the tensors in it (see `_tensor_marks`).
_KeptTensors = dict[tuple[int, str], tuple[nn.Module, Any]]


class ModelState:
    """What a model was like when it was last looked at."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._structure = self._values = 0
        self._kept: _KeptTensors = {}
        self._samples: dict[torch.dtype, list[Tensor]] = {}
        self._buffers: list[tuple[Tensor, int]] = []  # that a forward may write, with versions
        self._written: set[int] = set()  # ids of buffers that a forward has written
        self.changed()

    def forget(self) -> None:
        """Let the next call of `changed` say that the model has changed."""
        self._structure = 0

    @torch.inference_mode()
    def changed(self) -> bool:
        """Whether anything compared has changed since the last call."""
        structure = _structure(self._model, self._written)
        if exchanged := structure != self._structure:
            self._structure = structure
            self._samples = _samples(self._model, self._written)
        values = hash(tuple(map(_bytes, self._samples.values())))
        kept = _kept_tensors(self._model)
        written = values != self._values or _marks(kept) != _marks(self._kept)
        self._values, self._kept = values, kept
        self._buffers = [(each, _version(each)) for each in _unsaved_buffers(self._model)]
        return exchanged or written

    def forward_ran(self) -> None:
        """Take what the modules have kept or written in a forward just now as it is.

        The values of a buffer that a forward writes (frequencies of some rotary embeddings) are
        not compared from then on.
        """
        for (_, name), (module, _) in list(self._kept.items()):
            self._kept[id(module), name] = module, _tensor_marks(getattr(module, name, None))
        written = {id(each) for each, before in self._buffers if _version(each) != before}
        if not written <= self._written:
            self._written |= written
            self.changed()


def _structure(model: nn.Module, written: Collection[int]) -> int:
    """Hash of the modules, what they may read, and the places and versions of their tensors.

    Args:
        written: ids of buffers whose versions do not count.
    """
    plain = PlainValues()
    parts: list[Any] = [_hooks(plain, each) for each in GLOBAL_HOOKS]
    for module in model.modules():
        parts += id(module), plain.of_class(module.__class__)
        for name, value in module.__dict__.items():
            kind = value.__class__
            if kind in SCALARS:
                parts.append(value)
            elif name == "forward":
                parts.append(id(value))
            elif name not in NOT_READ and not (kind in CONTAINERS and not value):
                found = _hooks(plain, value) if name in HOOKS else plain.of(value)
                parts += () if found is None else (name, found)
        for each in (*module._parameters.values(), *module._buffers.values()):
            if each is not None:
                version = None if id(each) in written else _version(each)
                parts += id(each), each.data_ptr(), version
    return hash(tuple(parts))


def _hooks(plain: PlainValues, hooks: dict[int, Any]) -> Any:
    """The hooks of a module, with what each reads."""
    return tuple((key, plain.read_by(hook)) for key, hook in hooks.items())


def _kept_tensors(model: nn.Module) -> _KeptTensors:
    """Tensors in plain attributes: neither parameters nor buffers."""
    found: _KeptTensors = {}
    for module in model.modules():
        for name, value in module.__dict__.items():
            kind = value.__class__
            if kind in SCALARS or name in HOLDERS or (kind in CONTAINERS and not value):
                continue  # most attributes
            if marks := _tensor_marks(value):
                found[id(module), name] = module, marks
    return found


def _tensor_marks(value: Any, depth: int = 2) -> Any:
    """Places and versions of tensors in the value; nothing if it has none."""
    if isinstance(value, Tensor):
        return id(value), value.data_ptr(), _version(value)
    if depth == 0 or value.__class__ not in CONTAINERS:
        return ()
    inside = value.values() if isinstance(value, dict) else value
    return tuple(marks for each in inside if (marks := _tensor_marks(each, depth - 1)))


def _marks(kept: _KeptTensors) -> dict[tuple[int, str], Any]:
    return {key: marks for key, (_, marks) in kept.items()}


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers in memory, each once."""
    for each in (*model.parameters(), *model.buffers()):
        if each.device.type != "meta":
            yield each


def _version(tensor: Tensor) -> int:
    """How often values were written in place; 0 where torch does not count."""
    return 0 if tensor.is_inference() else tensor._version


def _unsaved_buffers(model: nn.Module) -> Iterator[Tensor]:
    """Buffers that are not stored with the weights."""
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            if (buffer := module._buffers.get(name)) is not None:
                yield buffer


def _samples(model: nn.Module, written: Collection[int]) -> dict[torch.dtype, list[Tensor]]:
    """Views of the compared values of each tensor; none of tensors of other classes."""
    found: dict[torch.dtype, list[Tensor]] = {}
    for tensor in _tensors(model):
        if id(tensor) in written:
            continue
        if type(tensor) in (Tensor, nn.Parameter, nn.Buffer) and tensor.is_contiguous():
            values = tensor.detach().view(-1)
            size = len(values)
            step = 1 if size <= FULL_VALUES else -(-size // SAMPLED_VALUES) | 1
            found.setdefault(tensor.dtype, []).append(values[::step])
    return found


def _bytes(views: list[Tensor]) -> bytes:
    values = torch.cat([each.to("cpu") for each in views])
    return values.view(torch.uint8).numpy().tobytes()
