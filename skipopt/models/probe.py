"""Run a model over a few tokens."""

from __future__ import annotations

from typing import Any

import torch

from skipopt.errors import ModelError
from skipopt.models.device_map import input_device

PROBE_TOKENS = 6


def run_probe(model: Any, use_cache: bool, other_end: bool = False, **options: Any) -> Any:
    """The model's output.

    Args:
        other_end: with another last token.
        options: more arguments of the model's forward.

    Raises:
        ModelError: it does not run.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, PROBE_TOKENS + 1) * (vocabulary // (PROBE_TOKENS + 2))
    if other_end:
        ids[-1] = 0
    try:
        return model(input_ids=ids[None].to(input_device(model)), use_cache=use_cache, **options)
    except Exception as error:  # whatever a model's own code raises
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{type(model).__name__} does not run over {PROBE_TOKENS} tokens: {reason}",
            hint="try it with transformers alone",
        ) from error
