"""A flag that a module's forward asks may change between texts, wherever it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from support.native import needs_native
from support.tiny import hf_greedy, tiny_llama, tiny_target
from torch import Tensor, nn

from skipopt.decoding.api import generate
from skipopt.models.target import Target

PROMPT = [5, 9, 60, 3, 7, 5, 9, 60]
RUNTIMES = ("eager", pytest.param("native", marks=needs_native), "captured")
ENABLED = False
SETTINGS = {"enabled": False}
SHARED = SimpleNamespace(enabled=False)


def text(target: Target) -> list[int]:
    method = "layer-skip:exit_layer=2:gamma=3"
    return [token.id for token in generate(target, PROMPT, method=method, max_new_tokens=12)]


class Switched(nn.Module):
    """An MLP that doubles its output while it is on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.config: Any = None
        self.keep()

    def keep(self) -> None:
        """Make what keeps the flag, off."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)
        return 2 * found if self.is_on() else found

    def is_on(self) -> bool:
        raise NotImplementedError

    def turn(self, on: bool) -> None:
        raise NotImplementedError


class InAttribute(Switched):
    on = False

    def is_on(self) -> bool:
        return self.on

    def turn(self, on: bool) -> None:
        self.on = on


class InObject(Switched):
    def keep(self) -> None:
        self.settings = SimpleNamespace(inner=SimpleNamespace(on=False))

    def is_on(self) -> bool:
        return bool(self.settings.inner.on)

    def turn(self, on: bool) -> None:
        self.settings.inner.on = on


class InObjectOfAList(Switched):
    def keep(self) -> None:
        self.settings = [SimpleNamespace(on=False)]

    def is_on(self) -> bool:
        return bool(self.settings[0].on)

    def turn(self, on: bool) -> None:
        self.settings[0].on = on


class InConfiguration(Switched):
    def is_on(self) -> bool:
        return getattr(self.config, "doubled", False)

    def turn(self, on: bool) -> None:
        self.config.doubled = on


class InClass(Switched):
    on: ClassVar[bool] = False

    def is_on(self) -> bool:
        return type(self).on

    def turn(self, on: bool) -> None:
        type(self).on = on


class InGlobal(Switched):
    def is_on(self) -> bool:
        return ENABLED

    def turn(self, on: bool) -> None:
        global ENABLED
        ENABLED = on


class InGlobalDictionary(Switched):
    def is_on(self) -> bool:
        return SETTINGS["enabled"]

    def turn(self, on: bool) -> None:
        SETTINGS["enabled"] = on


class InGlobalObject(Switched):
    @property
    def on(self) -> bool:
        return bool(SHARED.enabled)

    def is_on(self) -> bool:
        return self.on

    def turn(self, on: bool) -> None:
        SHARED.enabled = on


class Mode(Enum):
    PLAIN = 1
    DOUBLED = 2


class InEnum(Switched):
    def keep(self) -> None:
        self.mode = Mode.PLAIN

    def is_on(self) -> bool:
        return self.mode is Mode.DOUBLED

    def turn(self, on: bool) -> None:
        self.mode = Mode.DOUBLED if on else Mode.PLAIN


KINDS = [
    InAttribute,
    InObject,
    InObjectOfAList,
    InConfiguration,
    InClass,
    InGlobal,
    InGlobalDictionary,
    InGlobalObject,
    InEnum,
]


def switched(kind: type[Switched]) -> tuple[Any, Switched]:
    model = tiny_llama(3)
    module = kind(model.model.layers[1].mlp)
    module.config = model.config
    model.model.layers[1].mlp = module
    return model, module


@contextmanager
def turned_on(module: Switched) -> Iterator[None]:
    module.turn(True)
    try:
        yield
    finally:
        module.turn(False)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_text_follows_the_flag(runtime: str, kind: type[Switched]) -> None:
    model, module = switched(kind)
    target = tiny_target(model, runtime=runtime)
    off = text(target)
    with turned_on(module):
        on = text(target)
        assert on == hf_greedy(target, PROMPT, 12)
    assert on != off
    assert text(target) == off
    assert target.runtime.name == runtime


class Adapter(nn.Module):
    """A linear layer with low-rank additions, switched in the way of peft's layers."""

    def __init__(self, base: nn.Linear, names: list[str]) -> None:
        super().__init__()
        self.base = base
        self.parts = nn.ParameterDict({name: self._part(name) for name in names})
        self._active_adapter = names[:1]
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def _part(self, name: str) -> nn.Parameter:
        generator = torch.Generator().manual_seed(len(name))
        return nn.Parameter(torch.randn(self.base.weight.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        if self._disable_adapters and self.merged_adapters:
            self.unmerge()
        found: Tensor = self.base(x)
        if self._disable_adapters or self.merged_adapters:
            return found
        for name in self._active_adapter:
            found = found + x @ self.parts[name].T
        return found

    def merge(self) -> None:
        self.merged_adapters = list(self._active_adapter)
        for name in self.merged_adapters:
            self.base.weight.data += self.parts[name].data

    def unmerge(self) -> None:
        for name in self.merged_adapters:
            self.base.weight.data -= self.parts[name].data
        self.merged_adapters = []


def disable(adapter: Adapter) -> None:
    adapter._disable_adapters = True


def activate(adapter: Adapter) -> None:
    adapter._active_adapter = ["second"]


def merge_and_disable(adapter: Adapter) -> None:
    adapter.merge()
    adapter._disable_adapters = True


def merge(adapter: Adapter) -> None:
    adapter._active_adapter = ["second"]
    adapter.merge()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("change", [disable, activate, merge, merge_and_disable])
def test_the_text_follows_an_adapter(runtime: str, change: Callable[[Adapter], None]) -> None:
    model = tiny_llama(3)
    mlp: Any = model.model.layers[1].mlp
    adapter = mlp.up_proj = Adapter(mlp.up_proj, ["first", "second"])
    target = tiny_target(model, runtime=runtime)
    before = text(target)
    change(adapter)
    found = text(target)
    assert found == hf_greedy(target, PROMPT, 12)
    assert found != before
    assert text(target) == found


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_another_attention_implementation_is_noticed(runtime: str) -> None:
    target = tiny_target(tiny_llama(3), runtime=runtime)
    before = text(target)
    target.model.set_attn_implementation("eager")
    assert text(target) == before
    assert target.runtime.step_caches.generation == 1


def test_objects_that_hold_each_other_are_looked_at_once() -> None:
    model, module = switched(InObject)
    settings: Any = module.settings
    settings.inner.outer = settings
    settings.big = list(range(1_000_000))
    target = tiny_target(model, runtime="captured")
    text(target)
    with turned_on(module):
        assert text(target) == hf_greedy(target, PROMPT, 12)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_generating_does_not_count_as_a_change(runtime: str) -> None:
    target = tiny_target(tiny_llama(3), runtime=runtime)
    for _ in range(3):
        text(target)
        hf_greedy(target, PROMPT, 4)
        target.model.generation_config.max_new_tokens = 7
    assert target.runtime.step_caches.generation == 0
