"""Run a model over a few tokens."""

from __future__ import annotations

from typing import Any

import torch

from skipopt.errors import ModelError
from skipopt.models.device_map import input_device
from skipopt.models.identity import context_limit

PROBE_TOKENS = 6


def run_probe(model: Any, use_cache: bool, other_end: bool = False, **options: Any) -> Any:
    """The model's output over `PROBE_TOKENS` tokens, or half of its context if that is less.

    Args:
        other_end: with another last token.
        options: more arguments of the model's forward.

    Raises:
        ModelError: it does not run.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    count = max(1, min(PROBE_TOKENS, context_limit(model) // 2))  # two probes fit into the context
    ids = torch.arange(1, count + 1) * (vocabulary // (PROBE_TOKENS + 2))
    if other_end:
        ids[-1] = 0
    try:
        return model(input_ids=ids[None].to(input_device(model)), use_cache=use_cache, **options)
    except Exception as error:  # whatever a model's own code raises
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{type(model).__name__} does not run over {count} tokens: {reason}",
            hint="try it with transformers alone",
        ) from error
