"""Run a model over a few tokens, and look at the cache that it creates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skipopt.errors import ModelError
from skipopt.models.device_map import input_device

PROBE_TOKENS = 6


def run_probe(model: Any, use_cache: bool, other_end: bool = False) -> Any:
    """The model's output.

    Args:
        other_end: with another last token.

    Raises:
        ModelError: it does not run.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, PROBE_TOKENS + 1) * (vocabulary // (PROBE_TOKENS + 2))
    if other_end:
        ids[-1] = 0
    try:
        return model(input_ids=ids[None].to(input_device(model)), use_cache=use_cache)
    except Exception as error:  # whatever a model's own code raises
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{type(model).__name__} does not run over {PROBE_TOKENS} tokens: {reason}",
            hint="try it with transformers alone",
        ) from error


@torch.no_grad()
def check_cache(model: nn.Module, name: str, depth: int) -> None:
    """Refuse layers whose cache holds anything but keys and values: only those can be rewound.

    The model's own cache shows it. Recurrent states may be in a module named like an attention,
    and sparse attentions cache an index in addition.
    """
    output = run_probe(model, use_cache=True)
    caches = getattr(getattr(output, "past_key_values", None), "layers", ())
    for index in range(depth):
        kept = _cached_states(caches[index]) if index < len(caches) else set()
        if kept != {"keys", "values"}:
            what = ", ".join(sorted(kept)) or "nothing"
            raise ModelError(
                f"{name}.{index} remembers {what} of a text; only keys and values can be "
                "rewound after a rejected draft",
                hint="choose a model whose layers all use plain attention",
            )


def _cached_states(cache: Any) -> set[str]:
    """Names of the tensors in one layer's cache."""
    kept: set[str] = set()
    for name, value in vars(cache).items():
        parts = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(part, Tensor) and part.ndim > 1 for part in parts):
            kept.add(name)
    return kept
