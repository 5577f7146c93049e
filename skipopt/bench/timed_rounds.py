"""Rounds of the decoding loop, each drafting as it is told, timed one by one.

Knows nothing of what is made of the times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from skipopt.decoding.loop import Limits, decode
from skipopt.draft_config import DraftConfig
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions

NEVER = 1e-9  # a τ that ends no draft, but whose confidence is computed

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Draft:
    """What is drafted in a round: `gamma` tokens, by these sublayers; with their confidence.

    Attributes:
        nodes: a ready-made tree of so many, the current token included, `gamma` deep, in place
            of a chain; 0 = a chain.
        verified: handed over; else only timed, and the round is a plain one.
    """

    gamma: int
    attention: bool = False
    mlp: bool = False
    sure: bool = False
    nodes: int = 0
    verified: bool = True


PLAIN = Draft(0)
MakeDrafter = Callable[[Draft], Drafter | None]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a round, and of its draft; tokens of text before it."""

    whole: float
    draft: float
    before: int


def most_tokens(drafts: Iterable[Draft]) -> int:
    """That rounds with these drafts may add to a text."""
    return sum(draft.gamma + 1 for draft in drafts)


def chain_drafter(target: Target, draft_config: DraftConfig, draft: Draft) -> Drafter | None:
    """Drafts a chain; None where nothing is drafted."""
    if not draft.gamma:
        return None
    every = range(target.depth)
    skipped = [() if kept else every for kept in (draft.attention, draft.mlp)]
    mask = SkipMask.of(target.depth, *skipped)
    tau = NEVER if draft.sure else 0.0
    return LayerSkipDrafter(
        target,
        mask,
        draft.gamma,
        tau,
        quant=draft_config.quant,
        window=draft_config.attention_window,
    )


def time_rounds(
    make: MakeDrafter,
    engine: Engine,
    context: Sequence[int],
    drafts: Sequence[Draft],
    clock: Clock,
) -> Iterator[tuple[Draft, Times]]:
    """One decoding whose rounds draft in these ways; the first, after the prefill, is a spare."""
    target = engine.target
    schedule = _Schedule(make, [drafts[0], *drafts], clock)
    limits = Limits(most_tokens(drafts) + 1, target.context_limit)
    engine.rewind(0)
    rounds = decode(engine, context, schedule, SamplingOptions(), limits)
    next(rounds)
    for draft in drafts:
        began = clock()
        done = next(rounds, None)
        if done is None or schedule.drafted < draft.gamma:
            return  # the end of the context
        yield draft, Times(clock() - began, schedule.seconds, schedule.before)


class _Schedule(Drafter):
    """Drafts each round as it is told; notes how long it took, and where."""

    def __init__(self, make: MakeDrafter, drafts: Iterable[Draft], clock: Clock) -> None:
        self._make = make
        self._drafts = iter(drafts)
        self._clock = clock
        self.seconds = 0.0
        self.drafted = self.before = 0

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        draft = next(self._drafts)
        drafter = self._make(draft)
        self.before = len(state.tokens)
        began = self._clock()
        tree = drafter.propose(state, limit) if drafter else DraftTree()
        self.seconds = self._clock() - began
        self.drafted = len(tree.tokens)
        return tree if draft.verified else DraftTree()
