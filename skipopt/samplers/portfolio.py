"""`auto`: a portfolio of samplers; trials go to the one that has lately improved the best most.

1. Early exits: a few masks that are cheap to score and a fair start.
2. Greedy from leave-one-out trials, alone until it stalls: of all arms, it leads the longest.
3. A bandit over the arms greedy, dp (with a model) and local search. Every arm is told every value
   and shares one registry of evaluated masks. The arm of the highest mean improvement over its
   last `WINDOW` trials proposes the next batch; among equals, the one that has been idle longest.
   An arm that has been idle for `MAX_IDLE` trials is tried again.

Until phase 3 the arms are not told the values of early exits. Starting greedy from the best early
exit gave worse masks.

The choice of arms depends on values and numbers of trials, not on time, so a seed gives the same
search on every machine. A Gaussian process is not among the arms: it took half of the time and
improved on nothing that the others found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MaskRegistry
from skipopt.samplers.greedy import GreedySampler
from skipopt.samplers.initial_masks import early_exits
from skipopt.samplers.local_search import LocalSearchSampler

if TYPE_CHECKING:
    from skipopt.samplers.context import SamplerContext

WINDOW = 16  # latest trials of an arm that its mean improvement is taken over
MAX_IDLE = 128  # trials of other arms after which an arm is tried again
# Trials in a row without an improvement, per free sublayer, after which greedy is not alone.
GREEDY_STALL = 3
INITIAL = "initial masks"  # proposes them


@dataclass(slots=True, eq=False)
class Arm:
    """A sampler of the portfolio and how well it has done.

    Attributes:
        exclusive_for: it alone proposes until so many of its trials in a row have not improved the
            best value, or it has nothing to propose; set to 0 then.
        improvements: by how much each of its latest trials has raised the best value.
        since_improvement: its latest trials in a row that have not.
        last_trial: number of trials of all arms when it last proposed.
        name: of the sampler, as `--sampler` has it.
    """

    sampler: BaseSampler
    exclusive_for: int = 0
    improvements: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    since_improvement: int = 0
    last_trial: int = 0
    name: str | None = None

    @property
    def mean_improvement(self) -> float:
        return sum(self.improvements) / max(1, len(self.improvements))

    def update(self, improvement: float) -> None:
        """Record by how much a trial has raised the best value; 0 if it has not."""
        self.improvements.append(improvement)
        self.since_improvement = 0 if improvement else self.since_improvement + 1
        if self.since_improvement >= self.exclusive_for:
            self.exclusive_for = 0


class PortfolioSampler(BaseSampler):
    """A bandit over other samplers. All that is random in it is drawn by its arms.

    Args:
        context: the model to run `dp` on; without one there is no such arm.
        arms: by default as described above. Their samplers share `registry`.
        initial: masks proposed first; by default early exits.
    """

    def __init__(
        self,
        space: MaskSpace,
        seed: int,
        registry: MaskRegistry | None = None,
        *,
        context: SamplerContext | None = None,
        arms: Sequence[Arm] | None = None,
        initial: Sequence[SkipMask] | None = None,
    ) -> None:
        super().__init__(space, seed, registry)
        masks = early_exits(space) if initial is None else initial
        self._initial_left = filter(self._is_new, dict.fromkeys(masks))
        self._arms = _arms(space, seed, self.registry, context) if arms is None else list(arms)
        self._pending: set[SkipMask] = set()  # initial masks without a value yet
        self._withheld: dict[SkipMask, float] = {}  # values of initial masks, not told to the arms
        self._proposed_by: dict[SkipMask, Arm] = {}  # until the value is told
        self._trials = 0

    def tell(self, mask: SkipMask, value: float) -> None:
        withhold = mask in self._pending and self._is_exclusive()
        self._pending.discard(mask)
        if withhold:
            self._withheld[mask] = value
        else:
            self._tell_arms(mask, value)

    def proposer(self, mask: SkipMask) -> str | None:
        if mask in self._pending:
            return INITIAL
        arm = self._proposed_by.get(mask)
        return None if arm is None else arm.name

    def proposals(self) -> Iterator[SkipMask]:
        """Each batch is that of one arm; what it leaves is filled by the next."""
        for mask in self._initial_left:
            self._pending.add(mask)
            yield mask
        while self._withheld and not self._is_exclusive():
            self._tell_arms(*self._withheld.popitem())
        for arm in self._by_priority():
            yield from self._of_arm(arm)

    def _of_arm(self, arm: Arm) -> Iterator[SkipMask]:
        found = False
        for mask in filter(self._is_new_to_arms, arm.sampler.proposals()):
            found = True
            self._proposed_by[mask] = arm
            self._trials += 1
            arm.last_trial = self._trials
            yield mask
        if not found:
            arm.exclusive_for = 0
            arm.last_trial = self._trials

    def _tell_arms(self, mask: SkipMask, value: float) -> None:
        improvement = _improvement(self.registry, value)
        for arm in self._arms:
            arm.sampler.tell(mask, value)
        if (arm_asked := self._proposed_by.pop(mask, None)) is not None:
            arm_asked.update(improvement)

    def _is_new(self, mask: SkipMask) -> bool:
        return mask not in self.registry and mask not in self._proposed_by

    def _is_new_to_arms(self, mask: SkipMask) -> bool:
        """The same for a mask that an arm has claimed; a withheld value is then told to all."""
        if mask in self._withheld:
            self._tell_arms(mask, self._withheld.pop(mask))
            return False
        return mask not in self._pending

    def _is_exclusive(self) -> bool:
        return any(arm.exclusive_for for arm in self._arms)

    def _by_priority(self) -> list[Arm]:
        """The exclusive arm, those idle for too long, then by mean improvement and idleness."""

        def priority(arm: Arm) -> tuple[int, float, float]:
            idle = self._trials - arm.last_trial
            if arm.exclusive_for:
                return 0, 0.0, 0.0
            return (1, -idle, 0.0) if idle >= MAX_IDLE else (2, -arm.mean_improvement, -idle)

        return sorted(self._arms, key=priority)


def _improvement(registry: MaskRegistry, value: float) -> float:
    """By how much the value exceeds the registry's best; 0 for the first and for failed trials."""
    best = registry.best
    if best is None or not isfinite(value):
        return 0.0
    return max(0.0, value - registry.values[best])


def _arms(
    space: MaskSpace, seed: int, registry: MaskRegistry, context: SamplerContext | None
) -> list[Arm]:
    greedy = GreedySampler(space, seed, registry)
    arms = [
        Arm(greedy, exclusive_for=GREEDY_STALL * len(space.free), name="greedy"),
        Arm(LocalSearchSampler(space, seed, registry), name="local-search"),
    ]
    if context is not None:
        from skipopt.samplers.dp import DpSampler

        arms.insert(1, Arm(DpSampler(space, seed, registry, context=context), name="dp"))
    return arms
