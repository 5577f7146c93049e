"""Notices that a model was changed, so that no copy of its weights goes stale.

Compared are the modules, their plain attributes, places and versions of all tensors, and values:
all of small tensors, and some of each large one, since torch counts no version where values are
written through `.data`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

SAMPLED_VALUES = 64  # of each large tensor
FULL_VALUES = 1024  # tensors up to this size are compared whole
SCALARS = frozenset((bool, int, float, str, type(None)))
CONTAINERS = frozenset((dict, OrderedDict, list, tuple, set, frozenset))
# Attributes of every module that hold others; what is in them is compared in another way.
HOLDERS = {"_parameters", "_buffers", "_modules"}
MAX_DEPTH = 6  # of lists, dictionaries and functions in each other
CALLED = (FunctionType, MethodType, partial)
HOOKS = {key for key, value in nn.Module().__dict__.items() if isinstance(value, dict)} - HOLDERS
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
        self.changed()

    def forget(self) -> None:
        """Let the next call of `changed` say that the model has changed."""
        self._structure = 0

    @torch.inference_mode()
    def changed(self) -> bool:
        """Whether anything compared has changed since the last call."""
        structure = _structure(self._model)
        if exchanged := structure != self._structure:
            self._structure = structure
            self._samples = _samples(self._model)
        values = hash(tuple(map(_bytes, self._samples.values())))
        kept = _kept_tensors(self._model)
        written = values != self._values or _marks(kept) != _marks(self._kept)
        self._values, self._kept = values, kept
        return exchanged or written

    def forward_ran(self) -> None:
        """Take tensors that the modules have kept in a forward just now as they are."""
        for (_, name), (module, _) in list(self._kept.items()):
            self._kept[id(module), name] = module, _tensor_marks(getattr(module, name, None))


def _structure(model: nn.Module) -> int:
    """Hash of the modules, their attributes, and the places and versions of their tensors."""
    parts: list[Any] = [_hooks(each) for each in GLOBAL_HOOKS]
    for module in model.modules():
        parts.append(id(module))
        for name, value in module.__dict__.items():
            kind = value.__class__
            if kind in SCALARS:
                parts.append(value)
            elif name == "forward":
                parts.append(id(value))
            elif kind in CONTAINERS and value and name not in HOLDERS:
                parts.append(_hooks(value) if name in HOOKS else _plain(value))
        for each in (*module._parameters.values(), *module._buffers.values()):
            if each is not None:
                parts += id(each), each.data_ptr(), _version(each)
    return hash(tuple(parts))


def _kept_tensors(model: nn.Module) -> _KeptTensors:
    """Tensors in plain attributes: neither parameters nor buffers."""
    return {
        (id(module), name): (module, marks)
        for module in model.modules()
        for name, value in module.__dict__.items()
        if name not in HOLDERS and (marks := _tensor_marks(value))
    }


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


def _plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Numbers and texts in the value, hashable."""
    if value.__class__ in SCALARS:
        return value
    if depth == 0:
        return None
    if isinstance(value, dict):
        return tuple((str(key), _plain(each, depth - 1)) for key, each in value.items())
    if value.__class__ in CONTAINERS:
        return tuple(_plain(each, depth - 1) for each in value)
    return None


def _hooks(hooks: dict[int, Any]) -> Any:
    """The hooks of a module, with what each reads."""
    return tuple((key, _read_by(hook)) for key, hook in hooks.items())


def _read_by(function: Any, depth: int = MAX_DEPTH) -> Any:
    """Numbers and texts that a function may read, hashable.

    Those in its closure and defaults, in globals that it names, in attributes of the object whose
    method it is, and of functions among these.
    """
    if depth == 0:
        return None
    if isinstance(function, partial):
        bound = _plain([function.args, function.keywords])
        return bound, _read_by(function.func, depth - 1)
    if isinstance(function, MethodType):
        owner = getattr(function.__self__, "__dict__", None)
        return _plain(owner), _read_by(function.__func__, depth - 1)
    if not isinstance(function, FunctionType):
        return _plain(getattr(function, "__dict__", None))
    read = [*_closure(function), function.__defaults__, function.__kwdefaults__]
    found = function.__globals__
    read += [found[name] for name in function.__code__.co_names if name in found]
    inner = [_read_by(each, depth - 1) for each in read if isinstance(each, CALLED)]
    return _plain(read), tuple(inner)


def _closure(function: FunctionType) -> Iterator[Any]:
    """Values of a function's closure; none of variables that have no value yet."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            yield cell.cell_contents


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers in memory, each once."""
    for each in (*model.parameters(), *model.buffers()):
        if each.device.type != "meta":
            yield each


def _version(tensor: Tensor) -> int:
    """How often values were written in place; 0 where torch does not count."""
    return 0 if tensor.is_inference() else tensor._version


def _samples(model: nn.Module) -> dict[torch.dtype, list[Tensor]]:
    """Views of the compared values of each tensor; none of tensors of other classes."""
    found: dict[torch.dtype, list[Tensor]] = {}
    for tensor in _tensors(model):
        if type(tensor) in (Tensor, nn.Parameter, nn.Buffer) and tensor.is_contiguous():
            values = tensor.detach().view(-1)
            size = len(values)
            step = 1 if size <= FULL_VALUES else -(-size // SAMPLED_VALUES) | 1
            found.setdefault(tensor.dtype, []).append(values[::step])
    return found


def _bytes(views: list[Tensor]) -> bytes:
    values = torch.cat([each.to("cpu") for each in views])
    return values.view(torch.uint8).numpy().tobytes()
