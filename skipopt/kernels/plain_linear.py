"""Linear layers as they are in the model, before they are copied for drafts."""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor, nn


def linear_of_rows(layer: nn.Linear, rows: Tensor | slice) -> nn.Linear:
    """A layer over some rows of a layer's weight and bias: a view for a slice, else a copy."""
    weight = layer.weight.detach()[rows]
    part = nn.Linear(layer.in_features, len(weight), layer.bias is not None, device="meta")
    part.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        part.bias = nn.Parameter(layer.bias.detach()[rows], requires_grad=False)
    return part


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """A float layer in memory, without hooks; no subclass of layer or tensor.

    These may compute otherwise: torchao's tensors are called float, and hold integers.
    """
    if not isinstance(module, nn.Linear) or type(module) is not nn.Linear:
        return False
    if type(module.weight) not in (nn.Parameter, Tensor):
        return False
    in_memory = module.weight.device.type != "meta" and module.weight.is_floating_point()
    return in_memory and "forward" not in module.__dict__
