"""The cache that a model makes itself, for models that keep more than is known how to restore.

It is passed on as it is. A text is set back by putting a copy of the cache in its place. A model
without a cache in the usual place (OpenAI GPT, RecurrentGemma) reads its text from the start in
each forward.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.models.identity import context_limit
from skipopt.models.probe import probe_tokens, run_probe
from skipopt.models.text_states import CLOSE, cache_argument

LONG_TEXT = 128  # tokens: more than windows and chunks of attention that is hashed


class OwnCache:
    """What a model keeps of a text, in the form that it made.

    Attributes:
        contents: None before the first token, and where the model keeps nothing.
    """

    def __init__(self, model: Any) -> None:
        self.contents: Any = None
        self._name = cache_argument(model)

    def arguments(self) -> dict[str, Any]:
        """The argument of the model's forward; none where there are no contents."""
        return {} if self.contents is None else {self._name: self.contents}

    def take(self, output: Any) -> None:
        """Keep the cache that a forward returned."""
        self.contents = getattr(output, self._name, None)

    def copy(self) -> Any:
        """A copy of the contents, in memory of its own."""
        return deepcopy(self.contents)


@torch.inference_mode()
def continues_from_a_copy(model: nn.Module) -> bool:
    """Whether several rows behind a copied cache give what they give in one run.

    They are run behind two copies of one cache, so that a copy that shares memory is noticed.
    """
    half = probe_tokens(model) // 2
    if not half:
        return False
    whole = _last_rows(run_probe(model, use_cache=False), half)
    cache = OwnCache(model)
    cache.take(run_probe(model, use_cache=True, part=slice(half)))
    before = cache.contents
    for _ in range(2):
        cache.contents = before
        cache.contents = cache.copy()
        rest = run_probe(model, use_cache=True, part=slice(half, None), **cache.arguments())
        if not _close(_last_rows(rest, 0), whole):
            return False
    return True


@torch.inference_mode()
def keeps_nothing(model: nn.Module) -> bool:
    """Whether each forward reads a text from its start, whatever was read before.

    Modules may keep states of their own, so two texts are read before the token whose logits are
    compared. A row must also give the same in a longer text, and without random numbers: it does
    not where attention is hashed (Reformer).
    """
    cache = OwnCache(model)
    run_probe(model, use_cache=True)
    first = run_probe(model, use_cache=True, part=slice(1))
    cache.take(run_probe(model, use_cache=True, other_end=True))
    again = run_probe(model, use_cache=True, part=slice(1))
    if cache.contents is not None or not torch.equal(first.logits, again.logits):
        return False
    length = min(LONG_TEXT, context_limit(model) // 2)
    before = torch.get_rng_state()
    texts = (run_probe(model, use_cache=True, count=each) for each in (length, 2 * length))
    short, long = (_last_rows(each, 0)[:, :length] for each in texts)
    return torch.equal(torch.get_rng_state(), before) and _close(long, short)


def _last_rows(output: Any, start: int) -> Tensor:
    rows: Tensor = output.logits[:, start:].float()
    return rows


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= CLOSE * expected.abs().max())
