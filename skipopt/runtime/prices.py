"""What things cost on the runtime that will run them, in seconds, measured.

Knows nothing of which mask is good.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.sampling import confidence
from skipopt.skipping import skipping


@dataclass(frozen=True, slots=True)
class Prices:
    """Seconds of one step at one context length.

    Attributes:
        fixed: a draft step with every layer skipped: embedding, head, choice of the token, host.
        attention, mlp: one sublayer.
        layer: what a layer costs beyond its sublayers, saved when it is skipped whole.
        verify: `verify[n - 1]` = the whole model over n tokens, n = 1 … γ_max + 1, and its choice.
    """

    fixed: float
    attention: float
    mlp: float
    layer: float
    verify: tuple[float, ...]

    @property
    def plain(self) -> float:
        """One plain step."""
        return self.verify[0]

    def draft_step(self, mask: SkipMask) -> float:
        """Predicted seconds of one draft step under `mask`."""
        attention, mlp = set(mask.attention), set(mask.mlp)
        return (
            self.fixed
            + self.attention * (mask.layers - len(attention))
            + self.mlp * (mask.layers - len(mlp))
            + self.layer * (mask.layers - len(attention & mlp))
        )


def measure_prices(
    target: Target,
    context: Sequence[int],
    longest: int,
    seconds: float = 4.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Prices:
    """Time whole and thinned steps after `context`, interleaved, medians of at least 5 rounds.

    Args:
        context: tokens to stand in the cache meanwhile.
        longest: n up to which verification is priced.
        seconds: about how long to go on measuring.
    """
    engine = Engine(target, len(context) + longest)
    engine.prefill(context)
    depth, every = target.depth, range(target.depth)
    tokens = [context[-1]] * longest
    thinned = {
        "none": SkipMask.of(depth, every, every),
        "mlp only": SkipMask.of(depth, every, ()),
        "attention only": SkipMask.of(depth, (), every),
        "all": SkipMask.empty(depth),
    }
    patches = {name: skipping(target.layers, mask) for name, mask in thinned.items()}

    def draft(name: str) -> float:
        with patches[name]:
            return _timed(lambda: _draft_step(engine, tokens[0]), engine, clock)

    def verify(n: int) -> float:
        return _timed(lambda: _verify_step(engine, tokens[:n]), engine, clock)

    drafts: dict[str, list[float]] = {name: [] for name in patches}
    verifies: list[list[float]] = [[] for _ in range(longest)]
    began, rounds = clock(), 0
    while rounds < 6 or clock() - began < seconds:
        for name, samples in drafts.items():
            samples.append(draft(name))
        for n, samples in enumerate(verifies, start=1):
            samples.append(verify(n))
        rounds += 1
    # The first round warms up.
    cost = {name: statistics.median(samples[1:]) for name, samples in drafts.items()}
    attention = (cost["all"] - cost["mlp only"]) / depth
    mlp = (cost["all"] - cost["attention only"]) / depth
    layer = (cost["all"] - cost["none"]) / depth - attention - mlp
    return Prices(
        cost["none"], attention, mlp, layer, tuple(statistics.median(v[1:]) for v in verifies)
    )


def _timed(action: Callable[[], object], engine: Engine, clock: Callable[[], float]) -> float:
    start = engine.position
    synchronize(engine.target)
    began = clock()
    action()
    took = clock() - began
    engine.rewind(start)
    return took


def _draft_step(engine: Engine, token: int) -> tuple[int, float]:
    logits = engine.step([token])[0]
    return int(logits.argmax()), float(confidence(logits))


def _verify_step(engine: Engine, tokens: Sequence[int]) -> list[int]:
    choices: list[int] = engine.step(tokens).argmax(-1).tolist()
    return choices


def synchronize(target: Target) -> None:
    """Wait for the GPU, if the target runs on one, so that a clock read means something."""
    if target.device.type == "cuda":
        torch.cuda.synchronize(target.device)
