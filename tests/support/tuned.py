"""Tuned layer skipping on a clock that every forward advances."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from skipopt.decoding.api import new_online_state
from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits
from skipopt.drafting.tuned import TunedDrafter
from skipopt.models.target import Target
from skipopt.online.config import OnlineConfig
from skipopt.online.state import OnlineState
from skipopt.online.tuner import OnlineTuner
from skipopt.profile import Profile
from skipopt.rounds import Round
from skipopt.runtime.step_rows import StepRows
from skipopt.runtime.verify_costs import VerifyCostEstimator
from skipopt.sampling import SamplingOptions
from skipopt.testing import drafters as contract
from skipopt.testing.watched import Metered, Watched
from skipopt.verification.match import Match
from support.tiny import tiny_prompts

GREEDY = SamplingOptions()


FREE = SamplingOptions(temperature=1.0, seed=1)  # greedy text of such models repeats itself


PROMPT = tiny_prompts(1)[0]


DEPTH = 4


class Clock:
    """A clock in seconds of a simulated machine.

    Attributes:
        fixed: share of a plain step outside the sublayers.
        row: cost of one more row, as a share of a plain step.
    """

    def __init__(self, fixed: float = 0.1, row: float = 0.01) -> None:
        self.now = 0.0
        self.fixed, self.row = fixed, row

    def __call__(self) -> float:
        return self.now

    def forward(self, target: Target, rows: int) -> None:
        kept = sum(_kept(layer) for layer in target.layers) / (2 * target.depth)
        self.now += self.fixed + (1 - self.fixed) * kept + self.row * (rows - 1)


def _kept(layer: Any) -> int:
    """Number of sublayers of a layer that are not skipped at present."""
    if "forward" in vars(layer.block.module):
        return 0
    kinds = [layer.branches("attention"), layer.branches("mlp")]
    return sum(all("forward" not in vars(b.module) for b in branches) for branches in kinds)


class Timed(Metered):
    """An engine whose forwards advance a clock."""

    clock = Clock()

    def forward(self, rows: StepRows, *args: Any, **options: Any) -> Tensor:
        self.clock.forward(self.target, len(rows.inputs))
        return super().forward(rows, *args, **options)


NEVER = float("inf")


def learning(
    target: Target,
    profile: Profile | None = None,
    method: str | None = None,
    **settings: Any,
) -> OnlineState:
    """An online state that may spend all of the time on tuning by default."""
    config = OnlineConfig(**{"overhead": 1.0, **settings})
    target.runtime.verify_costs = VerifyCostEstimator()  # earlier tests had other clocks
    return new_online_state(target, profile=profile, method=method, config=config)


def tuner_of(learned: OnlineState) -> OnlineTuner:
    assert learned.tuner is not None
    return learned.tuner


def decoded(
    target: Target,
    learned: OnlineState,
    clock: Clock,
    count: int = 120,
    options: SamplingOptions = FREE,
    prompt: list[int] = PROMPT,
    fresh: bool = False,
) -> list[Round]:
    """Decode one text; `Watched` checks cache, patches and drafts after every round."""
    drafter = TunedDrafter(target, learned, clock)
    engine = Timed(target, len(prompt) + count + drafter.max_extra_rows)
    limits = Limits(count, target.context_limit)
    return list(decode(engine, prompt, Watched(drafter, fresh), options, limits, Match()))


def plain(target: Target, count: int = 120, options: SamplingOptions = FREE) -> list[int]:
    return contract.plain(target, tuple(PROMPT), count, options)


def by_hand(target: Target, gamma: int = 4, tau: float = 0.0) -> Profile:
    return Profile.by_hand(target, attention=[1, 2], mlp=[2], gamma=gamma, tau=tau)
