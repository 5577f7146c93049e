"""Rounds of the decoding loop with prescribed drafts, each timed on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from skipopt.bench.timed_drafter import TimedDrafter
from skipopt.bench.timing import Clock
from skipopt.decoding.loop import Limits, decode
from skipopt.draft_config import DraftConfig
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.plain import NoDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions

TINY_TAU = 1e-9  # ends no draft, but makes the drafter compute its confidence


@dataclass(frozen=True, slots=True)
class DraftSpec:
    """What is drafted in one round.

    Attributes:
        gamma: number of drafted tokens; 0 is a plain round. Of a tree, its depth.
        mask: of the draft; None where `gamma` is 0 or a tree is drafted.
        confidence: compute the confidence of each drafted token.
        nodes: of a ready-made tree, the current token included; 0 is a chain.
        verified: False drops the draft after timing it, so that the round is a plain one.
    """

    gamma: int
    mask: SkipMask | None = None
    confidence: bool = False
    nodes: int = 0
    verified: bool = True


PLAIN_ROUND = DraftSpec(0)
MakeDrafter = Callable[[DraftSpec], Drafter]


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """Seconds of a whole round and of its draft, and the number of tokens before it."""

    whole: float
    draft: float
    context: int


def max_new_tokens(specs: Iterable[DraftSpec]) -> int:
    """The most tokens that rounds with these drafts can add to a text."""
    return sum(spec.gamma + 1 for spec in specs)


def chain_drafter(target: Target, draft_config: DraftConfig, spec: DraftSpec) -> Drafter:
    """A drafter of the chain that `spec` asks for, with the quantization of `draft_config`."""
    if spec.mask is None:
        return NoDrafter()
    tau = TINY_TAU if spec.confidence else 0.0
    return LayerSkipDrafter(
        target,
        spec.mask,
        spec.gamma,
        tau,
        quant=draft_config.quant,
        window=draft_config.attention_window,
    )


def time_rounds(
    make: MakeDrafter,
    engine: Engine,
    context: Sequence[int],
    specs: Sequence[DraftSpec],
    clock: Clock,
) -> Iterator[tuple[DraftSpec, RoundTimes]]:
    """Decode after `context`, one round for each spec; an untimed round comes first.

    Args:
        make: called for each round; not timed.

    Yields:
        Each spec with its times; fewer than asked for at the end of the model's context.
    """
    drafter = _PrescribedDrafter(make, [specs[0], *specs], clock)
    limits = Limits(max_new_tokens(specs) + 1, engine.target.context_limit)
    engine.rewind(0)
    rounds = decode(engine, context, drafter, SamplingOptions(), limits)
    next(rounds)
    for spec in specs:
        began = clock()
        done = next(rounds, None)
        if done is None or drafter.drafted < spec.gamma:
            return
        yield spec, RoundTimes(clock() - began, drafter.seconds, drafter.context)


class _PrescribedDrafter(Drafter):
    """Drafts each round as its spec says.

    Attributes:
        seconds: of the last draft.
        drafted: tokens of the last draft.
        context: tokens before it.
    """

    def __init__(self, make: MakeDrafter, specs: Iterable[DraftSpec], clock: Clock) -> None:
        self._make = make
        self._specs = iter(specs)
        self._clock = clock
        self.seconds = 0.0
        self.drafted = self.context = 0

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        spec = next(self._specs)
        drafter = TimedDrafter(self._make(spec), self._clock)
        tree = drafter.propose(state, limit)
        self.seconds, self.context = drafter.seconds, len(state.tokens)
        self.drafted = len(tree.tokens)
        return tree if spec.verified else DraftTree()
