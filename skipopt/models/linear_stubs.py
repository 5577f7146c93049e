"""Run a model without reading the weights of its linear layers.

A checkpoint's weights are mapped from the file, and each page is read when it is first touched.
What a check of the model's structure finds does not depend on their values, so it need not wait
for them.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from skipopt.models.patch import Patch

SCALE = 0.75  # not 1, so that two stubs in a row are not one


def linear_stubs(model: nn.Module) -> Patch:
    """A patch under which each linear layer returns a fixed linear function of its input.

    No layer's function is the identity, and each depends on every entry of the input and refuses
    an input of another width, as the layer does. Subclasses (quantized, adapted) and layers whose
    forward was replaced (offloaded) run as they are.
    """
    return Patch(
        (module, partial(_folded, module.in_features, module.out_features))
        for module in model.modules()
        if type(module) is nn.Linear and "forward" not in module.__dict__
    )


def _folded(inputs: int, outputs: int, input: Tensor) -> Tensor:
    """The last dimension, shifted by one, repeated or folded to `outputs` entries, and scaled.

    Raises:
        RuntimeError: the last dimension is not of size `inputs`.
    """
    if input.shape[-1] != inputs:
        raise RuntimeError(f"the input has {input.shape[-1]} entries, not {inputs}")
    pieces = -(-inputs // outputs)
    order = torch.arange(1, pieces * outputs + 1, device=input.device) % inputs
    folded: Tensor = input[..., order].unflatten(-1, (pieces, outputs)).sum(-2)
    return folded * SCALE
