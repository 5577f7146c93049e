"""A decoder layer that runs alone, on the arguments of a call, while parts of it are replaced."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.masks import SublayerKind
from skipopt.models.patch import Forward, Patch
from skipopt.models.sublayers import Sublayer, stream_of

LEAST_CHANGE = 0.01  # of a token's stream after the layer, when the stream before it turns around

Call = tuple[tuple[Any, ...], dict[str, Any]]  # args and kwargs
Branches = dict[SublayerKind, tuple[Sublayer, ...]]
Changes = list[tuple[nn.Module, Forward]]


class LayerRun:
    """Runs one layer again on the arguments it was called with, under replacements."""

    def __init__(self, layer: nn.Module, call: Call) -> None:
        self.layer = layer
        self.args, self.kwargs = call
        self.hidden = stream_of(*call)

    @torch.no_grad()
    def __call__(self, changes: Changes, hidden: Tensor | None = None) -> Tensor:
        """What the layer returns, for another stream if one is given."""
        stream = self.hidden if hidden is None else hidden
        args, kwargs = (
            with_replaced(each, self.hidden, stream) for each in (self.args, self.kwargs)
        )
        with Patch(changes):
            output = self.layer(*args, **kwargs)
        return first_tensor(output).to(self.hidden.device)

    def equals(self, expected: Tensor, changes: Changes) -> bool:
        """Whether the layer returns exactly this under the changes, and it is finite."""
        with suppress(RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            return bool(torch.equal(self(changes), expected) and expected.isfinite().all())
        return False  # the layer needs what was replaced

    def passes_stream(self, changes: Changes) -> bool:
        """Whether a token's stream reaches the end of the layer under the changes.

        Where it does not, as in a layer whose residual is added inside a sublayer, what the layer
        returns for a token stays much the same when its stream turns around.
        """
        if not changes:
            return False
        turned = self.hidden.clone()
        turned[:, 0] = -turned[:, 0]
        with suppress(RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            before, after = self(changes)[:, 0], self(changes, turned)[:, 0]
            if before.shape != self.hidden[:, 0].shape or not before.isfinite().all():
                return False
            return bool((after - before).norm() > LEAST_CHANGE * before.norm())
        return False


def zeroed(branches: Branches) -> Changes:
    """The changes with which all of these return zeros."""
    return [(each.module, each.zeros) for kind in branches for each in branches[kind]]


def first_tensor(output: Any) -> Tensor:
    """The output, or the first part of it."""
    first: Tensor = output[0] if isinstance(output, tuple | list) else output
    return first


def with_replaced(given: Any, old: Tensor, new: Tensor) -> Any:
    """Positional or named arguments with another tensor in one's place."""
    if isinstance(given, dict):
        return {name: new if value is old else value for name, value in given.items()}
    return tuple(new if value is old else value for value in given)
