"""Times rounds of the decoding loop one by one, with prescribed drafts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits
from skipopt.draft_config import DraftConfig
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.plain import NoDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.measurement.timed_drafter import TimedDrafter
from skipopt.measurement.timing import Clock
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions

TINY_TAU = 1e-9  # makes the drafter compute its confidence, but never ends a draft


@dataclass(frozen=True, slots=True)
class DraftSpec:
    """What is drafted in one round.

    Attributes:
        gamma: number of drafted tokens, or depth of the tree; 0 is a plain round.
        mask: skip mask of the draft; None if `gamma` is 0 or a tree is drafted.
        confidence: compute the confidence of each drafted token.
        nodes: nodes of a dummy tree, the current token included; 0 is a chain.
        verified: if False, the draft is dropped after it was timed: the round is a plain one.
        timed: if False, the round only prepares the next one.
    """

    gamma: int
    mask: SkipMask | None = None
    confidence: bool = False
    nodes: int = 0
    verified: bool = True
    timed: bool = True


PLAIN_ROUND = DraftSpec(0)
# After a rejected draft, a model with states of a text reads a few tokens again.
UNTIMED_ROUND = DraftSpec(0, timed=False)
MakeDrafter = Callable[[DraftSpec], Drafter]


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """Times of one round.

    Attributes:
        total: seconds of the round, its draft included.
        draft: seconds of the draft.
        context: number of tokens before the round.
    """

    total: float
    draft: float
    context: int


def max_new_tokens(specs: Iterable[DraftSpec]) -> int:
    """The largest number of tokens that rounds with these drafts can add to a text."""
    return sum(spec.gamma + 1 for spec in specs)


def chain_drafter(target: Target, draft_config: DraftConfig, spec: DraftSpec) -> Drafter:
    """A drafter of the chain in `spec`, as `draft_config` says."""
    if spec.mask is None:
        return NoDrafter()
    tau = TINY_TAU if spec.confidence else 0.0
    return LayerSkipDrafter(target, spec.mask, spec.gamma, tau, draft_config=draft_config)


def time_rounds(
    make: MakeDrafter,
    engine: Engine,
    context: Sequence[int],
    specs: Sequence[DraftSpec],
    clock: Clock,
) -> Iterator[tuple[DraftSpec, RoundTimes]]:
    """Decode after `context`: an untimed round of the first spec, then one timed round per spec.

    Args:
        make: returns the drafter of a round; the call is not timed.

    Yields:
        Each timed spec with its times; stops early where the model's context leaves no room for a
        draft.
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
        if spec.timed:
            yield spec, RoundTimes(clock() - began, drafter.seconds, drafter.context)


class _PrescribedDrafter(Drafter):
    """Drafts one spec per round, in order.

    Attributes:
        seconds: time of the last draft.
        drafted: number of tokens of the last draft.
        context: number of tokens before the last draft.
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
        return _all_different(tree, state.tokens) if spec.verified else DraftTree()


def _all_different(tree: DraftTree, text: Sequence[int]) -> DraftTree:
    """The draft, with other tokens of the text in place of those that it repeats.

    Rows of one token would go through the same experts of a mixture of experts, and cost less than
    those of a text. A draft of few sublayers often repeats the current token.
    """
    current, count = text[-1], len(tree.tokens)
    if len({current, *tree.tokens}) == 1 + count:
        return tree
    different = dict.fromkeys(token for token in tree.tokens if token != current)
    for token in text:
        if len(different) == count:
            break
        if token != current:
            different[token] = None
    return replace(tree, tokens=tuple(islice(cycle(different or tree.tokens), count)))
