"""Run a model over a few tokens."""

from __future__ import annotations

from typing import Any

import torch

from skipopt.errors import ModelError
from skipopt.models.device_map import input_device
from skipopt.models.identity import context_limit

PROBE_TOKENS = 6


def probe_tokens(model: Any) -> int:
    """Number of tokens of a probe: `PROBE_TOKENS`, or half of the context if that is less.

    Two probes fit into the context.
    """
    return max(1, min(PROBE_TOKENS, context_limit(model) // 2))


def run_probe(
    model: Any,
    use_cache: bool,
    other_end: bool = False,
    part: slice = slice(None),
    count: int | None = None,
    **options: Any,
) -> Any:
    """The model's output over a few tokens.

    Args:
        other_end: with another last token.
        part: which of the tokens.
        count: number of tokens; by default `probe_tokens`.
        options: more arguments of the model's forward.

    Raises:
        ModelError: it does not run.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    count = probe_tokens(model) if count is None else count
    ids = torch.arange(1, count + 1) * (vocabulary // (PROBE_TOKENS + 2)) % vocabulary
    if other_end:
        ids[-1] = 0
    rows = ids[None, part].to(input_device(model))
    try:
        return model(input_ids=rows, use_cache=use_cache, **options)
    except Exception as error:  # whatever a model's own code raises
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{type(model).__name__} does not run over {count} tokens: {reason}",
            hint="try it with transformers alone",
        ) from error
