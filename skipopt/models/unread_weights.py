"""Tells weights of a model's layers from others, by the names of tensors that were not loaded."""

from __future__ import annotations

from torch import nn

# Ends of the names of tensors that older checkpoints hold, and that are computed when needed.
COMPUTED = ("inv_freq", "masked_bias", "attn.bias", "attention.bias")


def belongs_to_layers(model: nn.Module, name: str) -> bool:
    """Whether a tensor that the model has no place for would be part of what it computes.

    That is: one of a layer, of a layer more than there are, or of the embedding, the last norm
    or the output projection.
    """
    if name.endswith(COMPUTED):
        return False
    prefix = getattr(model, "base_model_prefix", "")
    # Checkpoints of a model without its output projection leave out the prefix.
    return _is_part(model, name) or bool(prefix and _is_part(model, f"{prefix}.{name}"))


def _is_part(module: nn.Module, name: str) -> bool:
    """Whether the modules that the name leads to are in a list of layers, or have weights."""
    in_layers = False
    for part in name.split(".")[:-1]:
        child = module._modules.get(part)
        if child is None:
            break
        module = child
        in_layers = in_layers or isinstance(module, nn.ModuleList)
    return in_layers or bool(module._parameters)
