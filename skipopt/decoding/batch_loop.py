"""The decoding loop over a batch: each round drafts and verifies all texts in common forwards.

Every text has its own drafter, verifier, random numbers and position, and these are those of
`skipopt.decoding.loop`: a text is the same as if it was decoded alone.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.decoding.finite import not_finite
from skipopt.decoding.loop import (
    RowRecorder,
    Verified,
    compare,
    end_round,
    prefill,
    room_left,
    to_round,
)
from skipopt.decoding.request import Limits
from skipopt.drafting.context_switching import ContextSwitchingDrafter
from skipopt.drafting.layer_skip import DraftSteps, LayerSkipDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.rounds import Round

if TYPE_CHECKING:
    from skipopt.drafting.base import Drafter, DraftState
    from skipopt.runtime.batch_engine import BatchEngine
    from skipopt.verification.base import Verifier


@dataclass(slots=True)
class BatchText:
    """One text of a batch.

    Attributes:
        place: number of its engine in the `BatchEngine`.
        prompt_tokens: number of tokens of its prompt.
        recorder: takes in the logits of each emitted token.
    """

    place: int
    state: DraftState
    drafter: Drafter
    verifier: Verifier
    limits: Limits
    prompt_tokens: int
    recorder: RowRecorder | None = None

    @property
    def room(self) -> tuple[int, str]:
        """See `room_left`."""
        return room_left(self.state, self.prompt_tokens, self.limits)

    @property
    def next_number(self) -> int:
        """Number of the next new token, from 1 on."""
        return len(self.state.tokens) - self.prompt_tokens + 1

    def begin(self) -> None:
        """Put the prompt into the cache."""
        self.state.engine.rewind(0)
        prefill(self.state.engine, self.state.tokens)


@dataclass(frozen=True, slots=True)
class BatchRound:
    """One round of all texts.

    Attributes:
        rounds: of each text.
        draft_seconds, verify_seconds: of the common forwards, with all host work.
    """

    rounds: list[Round]
    draft_seconds: float
    verify_seconds: float


def decode_round(
    engine: BatchEngine,
    texts: Sequence[BatchText],
    depth: int | None = None,
    put_off: bool = False,
) -> BatchRound:
    """Draft and verify the next tokens of all texts.

    Args:
        depth: most tokens of a draft; 0 for a plain round, None for what the method drafts.
        put_off: see `DraftTree.put_off`.
    """
    clock = engine.all.target.runtime.clock_without_capture(time.perf_counter)
    rooms = [text.room for text in texts]
    depths = [room - 1 if depth is None else min(depth, room - 1) for room, _ in rooms]
    began = clock()
    drafts = [DraftTree(put_off=put_off) for _ in texts]
    if depth != 0:
        drafts = _drafts(engine, texts, depths)
    drafted = clock()
    drafts, found = _verified(engine, texts, drafts)
    seconds = drafted - began, clock() - drafted
    rounds: list[Round] = []
    for text, draft, each, room in zip(texts, drafts, found, rooms, strict=True):
        outcome, stop = end_round(
            text.state, draft, each, seconds, text.limits, room, text.recorder
        )
        if depth != 0:
            text.drafter.observe(outcome)
        rounds.append(to_round(outcome, stop))
    return BatchRound(rounds, *seconds)


def _verified(
    engine: BatchEngine, texts: Sequence[BatchText], drafts: list[DraftTree]
) -> tuple[list[DraftTree], list[Verified]]:
    """The drafts that count, and what the target says of them.

    Raises:
        ModelError: logits that are not numbers.
    """
    found = _run(engine, texts, drafts)
    if any(each.first_bad is not None for each in found):
        # Keys and values of drafts that are not numbers spoil even rows that do not see them.
        _rewind(texts)
        engine.clear_new()
        drafts = [DraftTree(forwards=draft.forwards) for draft in drafts]
        found = _run(engine, texts, drafts)
    for text, each in zip(texts, found, strict=True):
        if each.first_bad is not None:
            engine.clear()
            number = text.next_number + each.first_bad
            raise not_finite(number, text.state.engine.target.dtype)
    return drafts, found


def _run(
    engine: BatchEngine, texts: Sequence[BatchText], drafts: Sequence[DraftTree]
) -> list[Verified]:
    given = [
        (text.place, [text.state.tokens[-1], *draft.tokens])
        for text, draft in zip(texts, drafts, strict=True)
    ]
    return [
        compare(text.state, draft, text.verifier, text.limits, logits)
        for text, draft, logits in zip(texts, drafts, engine.step(given), strict=True)
    ]


def _rewind(texts: Sequence[BatchText]) -> None:
    """Drop what was drafted or verified in this round."""
    for text in texts:
        text.state.engine.rewind(len(text.state.tokens) - 1)


def _drafts(
    engine: BatchEngine, texts: Sequence[BatchText], depths: Sequence[int]
) -> list[DraftTree]:
    """A draft for each text. Those of equal draft models share their forwards."""
    drafts: dict[int, DraftTree] = {}
    modeled: defaultdict[object, list[_Chain]] = defaultdict(list)
    for text, depth in zip(texts, depths, strict=True):
        drafter, state = current_drafter(text), text.state
        if not isinstance(drafter, LayerSkipDrafter):
            drafts[text.place] = drafter.propose(state, depth)
        elif not drafter.draft_model.idle and depth > 0:
            steps = drafter.steps(state, min(drafter.gamma, depth))
            model = drafter.draft_model.resolved(state)
            modeled[model].append(_Chain(text, drafter, steps))
    try:
        for chains in modeled.values():
            drafts |= _run_chains(engine, chains)
    finally:
        _rewind(texts)
    return [drafts.get(text.place, DraftTree()) for text in texts]


def current_drafter(text: BatchText) -> Drafter:
    """The drafter for the text's present length."""
    if isinstance(text.drafter, ContextSwitchingDrafter):
        return text.drafter.switch(len(text.state.tokens))
    return text.drafter


@dataclass(slots=True)
class _Chain:
    text: BatchText
    drafter: LayerSkipDrafter
    steps: DraftSteps


def _run_chains(engine: BatchEngine, chains: Sequence[_Chain]) -> Mapping[int, DraftTree]:
    """Drafts by the same draft model, each until it ends."""
    drafts: dict[int, DraftTree] = {}
    waiting = [(chain, next(chain.steps)) for chain in chains]
    first = chains[0]
    with first.drafter.draft_model.drafting(first.text.state):
        while waiting:
            logits = engine.step([(chain.text.place, [token]) for chain, token in waiting])
            goes_on: list[tuple[_Chain, int]] = []
            for (chain, _), row in zip(waiting, logits, strict=True):
                try:
                    goes_on.append((chain, chain.steps.send(row[0])))
                except StopIteration as end:
                    drafts[chain.text.place] = end.value
            waiting = goes_on
    return drafts
