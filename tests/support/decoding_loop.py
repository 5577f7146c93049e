"""Helpers of the tests of loop."""

from __future__ import annotations

from collections.abc import Sequence

from skipopt.decoding.loop import Limits, decode, new_engine
from skipopt.drafting.base import Drafter
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.rounds import Round
from skipopt.sampling import SamplingOptions

GREEDY = SamplingOptions()


LENGTH = 24


def run(
    target: Target,
    prompt: list[int],
    drafter: Drafter,
    count: int = LENGTH,
    eos: Sequence[int] = (),
    context: int = 256,
) -> list[Round]:
    limits = Limits(count, context, frozenset(eos))
    engine = new_engine(target, prompt, limits, drafter.max_extra_rows)
    return list(decode(engine, prompt, drafter, GREEDY, limits))


def emitted(rounds: Sequence[Round]) -> list[int]:
    return [token for round_ in rounds for token in round_.emitted]


def skip(target: Target, name: str, gamma: int, tau: float = 0.0) -> LayerSkipDrafter:
    depth = target.depth
    masks = {
        "always accepted": SkipMask.empty(depth),
        "sometimes accepted": SkipMask.of(depth, attention=[1]),
        "hardly ever accepted": SkipMask.of(depth, range(depth), range(depth)),
    }
    return LayerSkipDrafter(target, masks[name], gamma, tau)
