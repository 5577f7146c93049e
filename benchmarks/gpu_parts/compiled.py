"""Plain decoding as gpt-fast does it: a static cache and a step under `torch.compile`.

The step chooses its token on the device; every token is read on the host, as in any decoding that
streams its text or waits for its end. Knows nothing of skipopt's runtimes or of other contenders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from skipopt.bench.timing import Clock, Decoding, Guarantee
from skipopt.models.target import Target


class CompiledPlain:
    """A contender; an error in it (a compiler that is missing, say) is noted by the timer.

    Args:
        target: whose model it is; nobody else may run this model in between.
        capacity: most tokens of prompt and text.
        how: arguments of `torch.compile`.
    """

    may_fail = True
    guarantee: Guarantee = "same tokens"

    def __init__(self, name: str, target: Target, capacity: int, how: Mapping[str, Any]) -> None:
        self.name = name
        self.settings = {"cache": "static", "torch.compile": dict(how)}
        self._target = target
        self._cache = static_cache(target.model, capacity)
        self._compiled = torch.compile(self._next, **how)

    def warm_up(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> None:
        """Compiles; CUDA graphs are recorded in the second run, replayed from the third on."""
        for _ in range(3):
            self.decode(prompt, max_new_tokens, clock)

    @torch.no_grad()
    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        began = clock()
        self._cache.reset()
        ids = torch.tensor([list(prompt)], device=self._target.device)
        self._prefill(ids[:, :-1])
        token, place = ids[:, -1:], torch.tensor([[len(prompt) - 1]], device=ids.device)
        first = clock()
        tokens: list[int] = []
        while len(tokens) < max_new_tokens and not self._target.eos_ids.intersection(tokens[-1:]):
            # Cloned: the next replay of a CUDA graph overwrites what this one returned.
            token = self._compiled(token, place).clone()
            place = place + 1
            tokens.append(int(token))
        return Decoding(tuple(tokens), first - began, clock() - first, len(tokens))

    def _prefill(self, ids: Tensor) -> None:
        """Not compiled: prompts are of many lengths."""
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        self._target.model(
            input_ids=ids,
            position_ids=places,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )

    def _next(self, token: Tensor, place: Tensor) -> Tensor:
        """The most likely token after this one.  # (1, 1), (1, 1) -> (1, 1)"""
        output = self._target.model(
            input_ids=token, position_ids=place, past_key_values=self._cache, use_cache=True
        )
        logits: Tensor = output.logits[:, -1]
        return logits.argmax(-1, keepdim=True)


def static_cache(model: Any, capacity: int) -> Any:
    """Of a fixed length, so that every step has the same shapes."""
    from transformers import StaticCache

    return StaticCache(config=model.config, max_cache_len=capacity)
