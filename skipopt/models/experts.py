"""The routed experts of a model, and how a draft runs fewer of them for a token.

A router says how many experts a token gets by an attribute such as `top_k`. Which attribute is
proved by running the model: with another value, the model's `topk` takes so many, and nothing else
of them changes. Without routed experts, what is left is the expert that all tokens share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from skipopt.errors import ModelError
from skipopt.models.patch import Forward, Patch, Setting
from skipopt.models.probe import run_probe
from skipopt.models.sublayers import DecoderLayer, stream_of

# How modules, or their configurations, call the number of experts for a token.
NAMES = ("top_k", "num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k_experts")


@dataclass(frozen=True, slots=True)
class FewerExperts:
    """What a `Patch` changes so that the model runs fewer experts.

    Attributes:
        settings: of what chooses them.
        forwards: of modules that compute them.
    """

    settings: tuple[Setting, ...] = ()
    forwards: tuple[tuple[nn.Module, Forward], ...] = ()

    @property
    def patch(self) -> Patch:
        """A patch of these changes alone."""
        return Patch(self.forwards, settings=self.settings)


class RoutedExperts:
    """Those of one model, looked for when they are first asked for.

    Args:
        model: None if it has no modules to look at.
        layers: its decoder layers.
    """

    def __init__(self, model: Any = None, layers: Sequence[DecoderLayer] = ()) -> None:
        self._model = model
        self._name = type(model).__name__
        self._modules = list(_modules(layers))
        self._found: dict[int, FewerExperts | str] = {}

    def unsupported_reason(self, count: int) -> str | None:
        """Why no draft can run `count` routed experts for a token; None if it can."""
        found = self._get(count)
        return found if isinstance(found, str) else None

    def fewer(self, count: int) -> FewerExperts:
        """The changes with which the model runs `count` routed experts for a token.

        Raises:
            ModelError: there is an `unsupported_reason`.
        """
        found = self._get(count)
        if isinstance(found, str):
            raise ModelError(f"not so few experts: {found}")
        return found

    @torch.no_grad()
    def _get(self, count: int) -> FewerExperts | str:
        if count not in self._found:
            self._found[count] = self._find(count)
        return self._found[count]

    def _find(self, count: int) -> FewerExperts | str:
        numbers = () if self._model is None else self._numbers(FewerExperts())
        ways = [way for way in (self._owners(), self._configs()) if way]
        if not numbers or not ways:
            return f"{self._name} is not a mixture of experts"
        if count == 0:
            return self._none_routed(numbers)
        largest = max(vars(owner)[name] for owner, name in ways[0])
        if count >= largest:
            own = "1 expert" if largest == 1 else f"{largest} experts"
            return f"{self._name} runs {own} for each token"
        for way in ways:
            more = [(owner, name) for owner, name in way if vars(owner)[name] > count]
            fewer = FewerExperts(tuple(Setting(*each, count) for each in more))
            if _are_fewer(numbers, self._numbers(fewer), count):
                return fewer
        return f"no attribute of {self._name} says how many experts run for a token"

    def _owners(self) -> list[tuple[Any, str]]:
        """The modules with such an attribute, and its name."""
        return [(each, name) for each in self._modules for name in NAMES if _number(each, name)]

    def _configs(self) -> list[tuple[Any, str]]:
        """The same of their configurations, each once."""
        configs = {id(c): c for m in self._modules if (c := vars(m).get("config")) is not None}
        return [(each, name) for each in configs.values() for name in NAMES if _number(each, name)]

    def _numbers(self, changes: FewerExperts) -> tuple[int, ...]:
        """How many each `topk` of the model takes; none where the model does not run."""
        with changes.patch, _TopNumbers() as seen:
            try:
                logits = run_probe(self._model, use_cache=False).logits
            except ModelError:
                return ()
        return tuple(seen.numbers) if logits.isfinite().all() else ()

    def _none_routed(self, numbers: Sequence[int]) -> FewerExperts | str:
        """The changes with which only shared experts run."""
        experts = self._experts(numbers)
        if not experts:
            return f"no module of {self._name} runs the experts that its router chose"
        fewer = FewerExperts(forwards=tuple((each, _nothing) for each in experts))
        around = [m for m in self._model.modules() if not experts.isdisjoint(m.children())]
        outputs = self._outputs(around, fewer)
        if len(outputs) < len(around) or not all(each.any() for each in outputs.values()):
            return f"{self._name} has no expert that all tokens share"
        return fewer

    def _experts(self, numbers: Sequence[int]) -> set[nn.Module]:
        """The modules that are given rows and the indices of each row's experts.

        Args:
            numbers: of experts that a row may have.
        """
        found: set[nn.Module] = set()

        def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
            if not given or not isinstance(output, Tensor) or output.shape != given[0].shape:
                return
            sizes = {number * given[0][..., 0].numel() for number in numbers}
            indices = (each for each in given[1:] if each.dtype in (torch.int32, torch.int64))
            if any(each.numel() in sizes for each in indices):
                found.add(module)

        with ExitStack() as stack:
            for module in self._modules:
                handle = module.register_forward_hook(look, with_kwargs=True)
                stack.callback(handle.remove)
            run_probe(self._model, use_cache=False)
        return found

    def _outputs(
        self, modules: Sequence[nn.Module], changes: FewerExperts
    ) -> dict[nn.Module, Tensor]:
        """What these modules return under the changes, the first tensor of each."""
        found: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            found[module] = output[0] if isinstance(output, tuple | list) else output

        with ExitStack() as stack:
            for module in modules:
                stack.callback(module.register_forward_hook(keep).remove)
            with changes.patch:
                run_probe(self._model, use_cache=False)
        return found


def _modules(layers: Sequence[DecoderLayer]) -> Iterator[nn.Module]:
    """The modules inside the layers, without those of attention."""
    for layer in layers:
        others = {m for branch in layer.attention for m in branch.module.modules()}
        others.add(layer.block.module)
        yield from (m for m in layer.block.module.modules() if m not in others)


def _number(owner: Any, name: str) -> bool:
    """Whether the object itself has a number of this name."""
    return type(vars(owner).get(name)) is int


def _are_fewer(before: Sequence[int], after: Sequence[int], count: int) -> bool:
    """Whether some numbers became `count`, and the others are what they were."""
    if len(after) != len(before) or after == before:
        return False
    return all(new == old or (new == count < old) for old, new in zip(before, after, strict=True))


def _nothing(*args: Any, **kwargs: Any) -> Tensor:
    """What no expert adds to the rows."""
    return torch.zeros_like(stream_of(args, kwargs))


class _TopNumbers(TorchDispatchMode):
    """Inside, notes how many every `topk` takes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.topk.default:
            self.numbers.append(args[1] if len(args) > 1 else kwargs["k"])
        return func(*args, **(kwargs or {}))
