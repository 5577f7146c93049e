"""Measures the cost of verifying trees, and how costs grow with the length of the context.

Rounds after a text and after a longer one are interleaved with plain rounds. Their times are
scaled by those of the plain rounds, so the result does not depend on whether the machine has
become slower or faster since the other costs were measured.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from statistics import median

from skipopt.cost_model.costs import Costs
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.measurement.cost_measurement import Timed, isotonic
from skipopt.measurement.timed_rounds import (
    PLAIN_ROUND,
    DraftSpec,
    MakeDrafter,
    chain_drafter,
    max_new_tokens,
    time_rounds,
)
from skipopt.measurement.timing import Clock
from skipopt.models.target import Target
from skipopt.runtime.attention_mask import attention_mask_format
from skipopt.runtime.draft_mode import draft_weights
from skipopt.runtime.engine import Engine

NODES = (8, 32)  # few sizes, because each one needs a captured step
DRAFT_STEPS = 2  # length of the draft that measures how attention grows with the context
REPEATS = 4  # rounds of each kind after a text in one cycle; the first is a warm-up
MIN_CYCLES, MAX_CYCLES = 2, 8
LENGTH_FACTOR = 4  # longer text ÷ text; it ends within half of the model's context
MIN_LENGTH_DIFFERENCE = 64  # tokens; with less, noise would dominate the slope


@dataclass(frozen=True, slots=True)
class _Text:
    """A text, and the rounds to decode after it.

    Attributes:
        tokens: token ids of the text.
        specs: the drafts of the rounds, decoded in this order and repeatedly.
    """

    tokens: Sequence[int]
    specs: Sequence[DraftSpec]

    @property
    def end(self) -> int:
        return len(self.tokens) + _room(self.specs)


def measure_tree_and_context_costs(
    target: Target,
    context: Sequence[int],
    costs: Costs,
    nodes: Sequence[int] = NODES,
    seconds: float = 0.75,
    clock: Clock = time.perf_counter,
    draft_config: DraftConfig = UNCHANGED,
) -> Costs:
    """`costs` with `verify_tree`, `attention_per_token` and `verify_per_token`.

    Growth is taken as linear between two lengths, although captured steps read the cache in
    lengths of 128, 192, 256, 384, … tokens and their costs therefore grow in steps. A cost is left
    unchanged if the model's context has no room to measure it; so are tree costs if the model
    cannot take tree masks.

    Args:
        context: the text after which `costs` were measured.
        nodes: sizes of the trees, the current token included, 3 or more.
        seconds: approximate duration of the measurement; less if rounds are short.
        draft_config: what drafts use besides a mask, as in `costs`.
    """
    draft = DraftSpec(
        DRAFT_STEPS, SkipMask.of(target.depth, (), range(target.depth)), verified=False
    )
    texts = _texts(target, context, sorted(set(nodes)), draft)
    if not texts:
        return costs
    # Copies of weights are made now, so that no round waits for them.
    draft_weights(target, SkipMask.empty(target.depth), draft_config)
    make = partial(_make_drafter, target, draft_config)
    near, *longer = _time_texts(target, make, texts, seconds, clock)
    costs = replace(costs, verify_tree=_tree_costs(near, costs.plain))
    for far in longer:
        costs = _with_growth(costs, near, far, draft, target.depth)
    return costs


def _texts(
    target: Target, context: Sequence[int], nodes: Sequence[int], draft: DraftSpec
) -> list[_Text]:
    """The text and a longer one; fewer if the context has no room for them and their rounds."""
    limit = target.context_limit
    specs = [PLAIN_ROUND, draft]
    length = min(LENGTH_FACTOR * len(context), limit // 2 - _room(specs))
    if length < max(2 * len(context), len(context) + MIN_LENGTH_DIFFERENCE):
        specs = [PLAIN_ROUND]
    form = attention_mask_format(target.model)
    if target.keeps_own_cache or form.unsupported_reason is not None:
        nodes = ()
    for count in range(len(nodes), -1, -1):
        mixed = [*specs, *(DraftSpec(_depth(each), nodes=each) for each in nodes[:count])]
        text = _Text(context[: max(1, limit - _room(mixed))], mixed)
        if text.end <= limit and len(mixed) > 1:
            longer = _Text(list(islice(cycle(context), length)), specs)
            return [text, longer] if draft in specs else [text]
    return []


def _room(specs: Sequence[DraftSpec]) -> int:
    """Most tokens that all repeats of these rounds add to a text, the untimed round included."""
    return REPEATS * max_new_tokens(specs) + 1


def _time_texts(
    target: Target, make: MakeDrafter, texts: Sequence[_Text], seconds: float, clock: Clock
) -> list[Timed]:
    """Times of the rounds after each text."""
    end = min(target.context_limit, max(text.end for text in texts))
    rows = max(max(spec.nodes, spec.gamma + 1) for spec in texts[0].specs)
    engine = Engine(target, end + rows)
    timed_by_text: list[Timed] = [defaultdict(list) for _ in texts]
    clock = target.runtime.clock_without_capture(clock)
    with target.runtime.capture_immediately():
        began, cycles = clock(), 0
        while cycles < MIN_CYCLES or (cycles < MAX_CYCLES and clock() - began < seconds):
            for text, timed in zip(texts, timed_by_text, strict=True):
                specs = [*text.specs] * REPEATS
                rounds = time_rounds(make, engine, text.tokens, specs, clock)
                for spec, times in islice(rounds, len(text.specs), None):
                    timed[spec].append(times)
            cycles += 1
    return timed_by_text


def _tree_costs(timed: Timed, plain: float) -> tuple[tuple[int, float], ...]:
    """Pairs (nodes, seconds), scaled to a plain round of `plain` seconds; nondecreasing."""
    scale = plain / _seconds(timed, PLAIN_ROUND)
    trees = sorted((spec for spec in timed if spec.nodes), key=lambda spec: spec.nodes)
    seconds = [_seconds(timed, tree) * scale for tree in trees]
    return tuple(zip((tree.nodes for tree in trees), isotonic(seconds), strict=True))


def _with_growth(costs: Costs, near: Timed, far: Timed, draft: DraftSpec, depth: int) -> Costs:
    """`costs` with the seconds that each token of context adds; negative ones (noise) become 0."""
    scale = costs.plain / _seconds(near, PLAIN_ROUND)

    def slope(spec: DraftSpec) -> float:
        seconds = _seconds(far, spec) - _seconds(near, spec)
        return max(0.0, seconds * scale / (_context(far, spec) - _context(near, spec)))

    return replace(
        costs,
        attention_per_token=slope(draft) / (DRAFT_STEPS * depth),
        verify_per_token=slope(PLAIN_ROUND),
    )


def _seconds(timed: Timed, spec: DraftSpec) -> float:
    """Median seconds of a round without its draft, or of a draft that was not verified."""
    if spec.verified:
        return median(times.total - times.draft for times in timed[spec])
    return median(times.draft for times in timed[spec])


def _context(timed: Timed, spec: DraftSpec) -> float:
    return median(times.context for times in timed[spec])


def _make_drafter(target: Target, draft_config: DraftConfig, spec: DraftSpec) -> Drafter:
    if spec.nodes:
        return DummyTreeDrafter(spec.nodes)
    return chain_drafter(target, draft_config, spec)


class DummyTreeDrafter(Drafter):
    """Drafts a binary tree of the first different tokens of the text, without a forward.

    Such drafts are seldom accepted, so the context length stays nearly constant.
    """

    def __init__(self, nodes: int) -> None:
        self._parents = _parents(nodes)
        self._depth = _depth(nodes)

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if limit < self._depth:
            return DraftTree()
        tokens = islice(cycle(dict.fromkeys(state.tokens)), len(self._parents))
        return DraftTree(tuple(tokens), self._parents)


def _parents(nodes: int) -> tuple[int, ...]:
    """The parent of each node except the root, level by level."""
    return tuple((node - 1) // 2 - 1 for node in range(1, nodes))


def _depth(nodes: int) -> int:
    """Depth of the last node."""
    return nodes.bit_length() - 1
