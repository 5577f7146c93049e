"""Numbers and texts that a model's code may read while it runs: flags, scales, settings.

Looked at are attributes of modules and of the objects in them, attributes of their classes, and
what their methods and hooks read elsewhere. Everything returned can be hashed and compared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from numbers import Number
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

SCALARS = frozenset((bool, int, float, str, type(None)))
CONTAINERS = frozenset((dict, OrderedDict, list, tuple, set, frozenset))
CALLED = (FunctionType, MethodType, partial)
OPAQUE = (nn.Module, Tensor, ModuleType, type, FunctionType, MethodType)
# Packages whose objects hold no settings that a user changes, and others whose functions read
# settings from modules and configurations alone.
LIBRARIES = frozenset(("accelerate", "builtins", "skipopt", "tokenizers", "torch"))
FIXED_FUNCTIONS = LIBRARIES | {"peft", "transformers"}
MAX_DEPTH = 6  # of lists, dictionaries, objects and functions in each other
MAX_ITEMS = 1024  # of one list or dictionary


class PlainValues:
    """Looks at each object, function and class once; make a new one for each comparison."""

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}  # of objects and functions
        self._classes: dict[type, Any] = {}

    def of(self, value: Any, depth: int = MAX_DEPTH) -> Any:
        """Numbers and texts in the value."""
        kind = value.__class__
        if kind in SCALARS:
            return value
        if depth == 0 or isinstance(value, OPAQUE):
            return None
        if isinstance(value, dict):
            items = islice(value.items(), MAX_ITEMS)
            return len(value), *((str(key), self.of(each, depth - 1)) for key, each in items)
        if kind in CONTAINERS:
            return len(value), *(self.of(each, depth - 1) for each in islice(value, MAX_ITEMS))
        if isinstance(value, Number):
            return str(value)
        return self._of_object(value, depth - 1)

    def of_class(self, kind: type) -> Any:
        """Attributes of a module's class, and what its methods read."""
        if kind not in self._classes:
            classes = kind.__mro__[: kind.__mro__.index(nn.Module)]
            self._classes[kind] = tuple(
                self._of_member(each, value)
                for each in classes
                if _package(each) not in LIBRARIES
                for value in vars(each).values()
            )
        return self._classes[kind]

    def read_by(self, function: Any, depth: int = MAX_DEPTH) -> Any:
        """What a function may read.

        That is what is in its closure and defaults, in globals that it names, in attributes of the
        object whose method it is, and what functions among these read.
        """
        if depth == 0:
            return None
        if isinstance(function, partial):
            bound = self.of([function.args, function.keywords])
            return bound, self.read_by(function.func, depth - 1)
        if isinstance(function, MethodType):
            owner = getattr(function.__self__, "__dict__", None)
            return self.of(owner), self.read_by(function.__func__, depth - 1)
        if not isinstance(function, FunctionType):
            return self.of(getattr(function, "__dict__", None))
        if id(function) not in self._seen:
            self._seen[id(function)] = None  # until known, for functions that call each other
            self._seen[id(function)] = self._read_by_code(function, depth)
        return self._seen[id(function)]

    def _read_by_code(self, function: FunctionType, depth: int) -> Any:
        read = [*_closure(function), function.__defaults__, function.__kwdefaults__]
        if (function.__module__ or "").partition(".")[0] not in FIXED_FUNCTIONS:
            found = function.__globals__
            read += [found[name] for name in _names(function.__code__) if name in found]
        inner = [self.read_by(each, depth - 1) for each in read if isinstance(each, CALLED)]
        return self.of(read), tuple(inner)

    def _of_object(self, value: Any, depth: int) -> Any:
        if _package(value.__class__) in LIBRARIES:
            return None
        if id(value) not in self._seen:
            self._seen[id(value)] = None  # until known, for objects that hold each other
            self._seen[id(value)] = self.of(getattr(value, "__dict__", None), depth)
        return self._seen[id(value)]

    def _of_member(self, owner: type, value: Any) -> Any:
        if isinstance(value, property):
            value = value.fget
        elif isinstance(value, classmethod | staticmethod):
            value = value.__func__
        if not isinstance(value, FunctionType):
            return self.of(value)
        return None if _package(owner) in FIXED_FUNCTIONS else self.read_by(value)


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _closure(function: FunctionType) -> Iterator[Any]:
    """Values of a function's closure; none of variables that have no value yet."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            yield cell.cell_contents


def _names(code: CodeType) -> Iterator[str]:
    """Global names and attributes that code uses, functions inside it included."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names(each)
