"""Plain decoding as gpt-fast does it: a static cache and a step under `torch.compile`.

The step chooses its token on the device. Each token is read on the host, as in any decoding that
streams its text or looks for its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from skipopt.measurement.timing import Clock, Decoding, Guarantee, Reached
from skipopt.models.target import Target

WARM_UPS = 3  # the first compiles, the second records CUDA graphs, the third replays them


class CompiledPlain:
    """A runner.

    Args:
        target: its model must not be run by anything else in between.
        capacity: most tokens of prompt and text.
        compile_options: arguments of `torch.compile`.
    """

    may_fail = True
    guarantee: Guarantee = "same tokens"

    def __init__(
        self, name: str, target: Target, capacity: int, compile_options: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.settings = {"cache": "static", "torch.compile": dict(compile_options)}
        self._target = target
        self._cache = static_cache(target.model, capacity)
        self._compiled = torch.compile(self._next, **compile_options)

    def warm_up(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> None:
        for _ in range(WARM_UPS):
            self.decode(prompt, max_new_tokens, clock)

    @torch.no_grad()
    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        began = clock()
        self._cache.reset()
        ids = torch.tensor([list(prompt)], device=self._target.device)
        self._prefill(ids[:, :-1])
        token, position = ids[:, -1:], torch.tensor([[len(prompt) - 1]], device=ids.device)
        first = clock()
        tokens: list[int] = []
        timeline: list[Reached] = []
        while len(tokens) < max_new_tokens and not self._target.eos_ids.intersection(tokens[-1:]):
            # Cloned, because the next replay of a CUDA graph overwrites its output.
            token = self._compiled(token, position).clone()
            position = position + 1
            tokens.append(int(token))
            timeline.append(Reached(len(tokens), clock() - began))
        seconds = clock() - first
        return Decoding(tuple(tokens), first - began, seconds, len(tokens), tuple(timeline))

    def decode_fresh(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        """The same as `decode`: what was compiled stays compiled."""
        return self.decode(prompt, max_new_tokens, clock)

    def _prefill(self, ids: Tensor) -> None:
        """Not compiled, because prompts have many lengths."""
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        self._target.model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )

    def _next(self, token: Tensor, position: Tensor) -> Tensor:
        """The most likely token after this one.  # (1, 1), (1, 1) -> (1, 1)"""
        output = self._target.model(
            input_ids=token, position_ids=position, past_key_values=self._cache, use_cache=True
        )
        logits: Tensor = output.logits[:, -1]
        return logits.argmax(-1, keepdim=True)


def static_cache(model: Any, capacity: int) -> Any:
    """A cache of fixed length, so that every step has the same shapes."""
    from transformers import StaticCache

    return StaticCache(config=model.config, max_cache_len=capacity)
