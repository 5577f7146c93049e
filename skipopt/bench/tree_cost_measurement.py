"""What trees cost to verify, and what every price gains as the text grows.

Rounds in one text and in a longer one take turns, and everything is told against the plain rounds
among them: a machine that has become slower since the other prices were measured changes nothing.
Knows nothing of where trees come from.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from statistics import median

from skipopt.bench.cost_measurement import isotonic
from skipopt.bench.timed_rounds import (
    PLAIN,
    Clock,
    Draft,
    MakeDrafter,
    Times,
    chain_drafter,
    most_tokens,
    time_rounds,
)
from skipopt.cost_model.costs import Costs
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime.attention_mask import attention_mask_format
from skipopt.runtime.draft_mode import quantized_weights
from skipopt.runtime.engine import Engine

NODES = (8, 32)  # few: every size is a captured step more
STEPS = 2  # of a draft whose growth is measured
PROBE = Draft(STEPS, attention=True, verified=False)
REPEATS = 4  # of every kind of round in one text; the first is a warm-up
FEWEST_CYCLES, ENOUGH_CYCLES = 2, 8
TIMES_LONGER = 4  # the longer text; it ends within half the model's context
LEAST_APART = 64  # tokens between both: of less, noise would make a slope

Timed = dict[Draft, list[Times]]


@dataclass(frozen=True, slots=True)
class _Text:
    """A text and the kinds of rounds that are decoded behind it, one after the other."""

    tokens: Sequence[int]
    kinds: Sequence[Draft]

    @property
    def end(self) -> int:
        return len(self.tokens) + _room(self.kinds)


def measure_tree_and_context_costs(
    target: Target,
    context: Sequence[int],
    costs: Costs,
    nodes: Sequence[int] = NODES,
    seconds: float = 0.75,
    clock: Clock = time.perf_counter,
    draft_config: DraftConfig = UNCHANGED,
) -> Costs:
    """`costs`, with those of trees and with their growth by the length of the text.

    Captured steps read the cache in lengths of 128, 192, 256, 384, …, so that a price grows by
    steps in truth; a straight line between two lengths stands for them. What the model's context
    has no room for is left as it is, and so are trees where the model takes no masks of ours.

    Args:
        context: the text after which `costs` were measured.
        nodes: sizes of the trees, the current token included, 3 or more.
        seconds: about how long to go on; less where rounds are short.
        levers: what drafts are made with, as in `costs`.
    """
    texts = _texts(target, context, sorted(set(nodes)))
    if not texts:
        return costs
    # Copies are made now, and not in a round.
    quantized_weights(target, SkipMask.empty(target.depth), draft_config.weight_bits)
    near, *longer = _take_turns(
        target, partial(_drafter, target, draft_config), texts, seconds, clock
    )
    costs = replace(costs, verify_tree=_trees(near, costs.plain))
    for far in longer:
        costs = _growing(costs, near, far, target.depth)
    return costs


def _texts(target: Target, context: Sequence[int], nodes: Sequence[int]) -> list[_Text]:
    """The text and, where there is room, a longer one; none, where there is none for anything."""
    limit = target.context_limit
    kinds = [PLAIN, PROBE]
    length = min(TIMES_LONGER * len(context), limit // 2 - _room(kinds))
    if length < max(2 * len(context), len(context) + LEAST_APART):
        kinds = [PLAIN]
    if attention_mask_format(target.model).why_not is not None:
        nodes = ()
    for count in range(len(nodes), -1, -1):
        trees = [Draft(_depth(each), nodes=each) for each in nodes[:count]]
        mixed = [*kinds, *trees]
        text = _Text(context[: max(1, limit - _room(mixed))], mixed)
        if text.end <= limit and len(mixed) > 1:
            longer = _Text(list(islice(cycle(context), length)), kinds)
            return [text, longer] if PROBE in kinds else [text]
    return []


def _room(kinds: Sequence[Draft]) -> int:
    """Tokens that rounds of these kinds may add to a text, the spare one included."""
    return REPEATS * most_tokens(kinds) + 1


def _take_turns(
    target: Target, make: MakeDrafter, texts: Sequence[_Text], seconds: float, clock: Clock
) -> list[Timed]:
    """What the rounds behind each text took."""
    end = min(target.context_limit, max(text.end for text in texts))
    rows = max(max(draft.nodes, draft.gamma + 1) for draft in texts[0].kinds)
    engine = Engine(target, end + rows)
    found: list[Timed] = [defaultdict(list) for _ in texts]
    clock = target.runtime.clock_without_capture(clock)
    with target.runtime.capture_immediately():
        began, cycles = clock(), 0
        while cycles < FEWEST_CYCLES or (cycles < ENOUGH_CYCLES and clock() - began < seconds):
            for text, timed in zip(texts, found, strict=True):
                drafts = [*text.kinds] * REPEATS
                rounds = time_rounds(make, engine, text.tokens, drafts, clock)
                for draft, times in islice(rounds, len(text.kinds), None):
                    timed[draft].append(times)
            cycles += 1
    return found


def _trees(timed: Timed, plain: float) -> tuple[tuple[int, float], ...]:
    """Seconds by nodes, where a plain round takes `plain`; more nodes never cost less."""
    unit = _seconds(timed, PLAIN) / plain
    trees = sorted((draft for draft in timed if draft.nodes), key=lambda draft: draft.nodes)
    seconds = [_seconds(timed, tree) / unit for tree in trees]
    return tuple(zip((tree.nodes for tree in trees), isotonic(seconds), strict=True))


def _growing(costs: Costs, near: Timed, far: Timed, depth: int) -> Costs:
    """With what a token of text more costs; noise that would make it cheaper is cut."""
    unit = _seconds(near, PLAIN) / costs.plain

    def slope(draft: Draft) -> float:
        more = _seconds(far, draft) - _seconds(near, draft)
        return max(0.0, more / unit / (_before(far, draft) - _before(near, draft)))

    return replace(
        costs,
        attention_per_token=slope(PROBE) / (STEPS * depth),
        verify_per_token=slope(PLAIN),
    )


def _seconds(timed: Timed, draft: Draft) -> float:
    """Of a round but for its draft, or of a draft that was not verified."""
    if draft.verified:
        return median(times.whole - times.draft for times in timed[draft])
    return median(times.draft for times in timed[draft])


def _before(timed: Timed, draft: Draft) -> float:
    return median(times.before for times in timed[draft])


def _drafter(target: Target, draft_config: DraftConfig, draft: Draft) -> Drafter | None:
    return (
        DummyTreeDrafter(draft.nodes)
        if draft.nodes
        else chain_drafter(target, draft_config, draft)
    )


class DummyTreeDrafter(Drafter):
    """Tokens from the beginning of the text, each with two children: a draft that costs nothing.

    Hardly any is accepted, so that the text stays about as long as it is.
    """

    def __init__(self, nodes: int) -> None:
        self._parents = _parents(nodes)
        self._depth = _depth(nodes)

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if limit < self._depth:
            return DraftTree()
        return DraftTree(tuple(islice(cycle(state.tokens), len(self._parents))), self._parents)


def _parents(nodes: int) -> tuple[int, ...]:
    """Of all but the first node, row by row."""
    return tuple((node - 1) // 2 - 1 for node in range(1, nodes))


def _depth(nodes: int) -> int:
    """Of the last node below the first."""
    return nodes.bit_length() - 1
