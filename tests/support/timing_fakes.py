"""A clock set by hand, runners that advance it, and a tiny real model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Any

from skipopt.measurement.timing import Clock, Decoding, Guarantee, Reached
from skipopt.models.target import Target
from skipopt.rounds import Round
from skipopt.runtime.load import make_target

PREFILL = 0.5


class FakeClock:
    """A clock in seconds, advanced by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeRunner:
    """Continues any prompt with `text(prompt)`, at `cost(run)` seconds per token.

    `calls` lists the prompts decoded, in order, over all runners that share the list. A text in
    a fresh state takes `first` seconds more.
    """

    first = 0.0
    may_fail = False
    guarantee: Guarantee = "same tokens"

    def __init__(
        self,
        name: str,
        clock: FakeClock,
        cost: Callable[[int], float],
        calls: list[tuple[str, int]] | None = None,
        text: Callable[[Sequence[int]], list[int]] | None = None,
    ) -> None:
        self.name = name
        self.settings: dict[str, Any] = {"of": "fake"}
        self.clock = clock
        self.cost = cost
        self.calls = [] if calls is None else calls
        self.text = text or (lambda prompt: [prompt[0] + i for i in range(40)])
        self.runs = 0

    def warm_up(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> None:
        self.calls.append((f"{self.name} warms up", prompt[0]))

    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        self.calls.append((self.name, prompt[0]))
        tokens = tuple(self.text(prompt)[:max_new_tokens])
        cost = self.cost(self.runs)
        self.runs += 1
        return self._pass_time(tokens, cost, clock, 0.0)

    def decode_fresh(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        self.calls.append((f"{self.name} anew", prompt[0]))
        tokens = tuple(self.text(prompt)[:max_new_tokens])
        return self._pass_time(tokens, self.cost(0), clock, self.first)

    def _pass_time(
        self, tokens: tuple[int, ...], cost: float, clock: Clock, capture: float
    ) -> Decoding:
        requested = clock()
        self.clock.now += PREFILL
        began = clock()
        timeline: list[Reached] = []
        for count in range(1, len(tokens) + 1):
            self.clock.now += cost + (capture if count == 1 else 0)
            timeline.append(Reached(count, clock() - requested))
        seconds = clock() - began - capture
        rounds = fake_rounds(tokens)
        return Decoding(tokens, PREFILL, seconds, len(tokens), tuple(timeline), rounds)


def fake_rounds(tokens: Sequence[int]) -> tuple[Round, ...]:
    """Rounds of two tokens; only the first one drafts, and has six of eight tokens accepted."""
    pairs = [tuple(tokens[i : i + 2]) for i in range(0, len(tokens) - 1, 2)]
    return (Round((0,) * 8, 6, pairs[0]), *(Round((), 0, pair) for pair in pairs[1:]))


@cache
def tiny_target(dtype: str = "float32") -> Target:
    """Four layers of random weights, whose greedy texts of 24 tokens do not loop."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    return make_target(model, None, runtime="eager")


def tiny_prompts(count: int) -> list[list[int]]:
    rng = Random(0)
    return [[rng.randrange(3, 100) for _ in range(rng.randint(4, 9))] for _ in range(count)]
