"""Seconds of rounds and draft steps after one fixed context.

Everything runs as in the decoding loop, host work included, and is rewound afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from skipopt.decoding.loop import prefill, run_target
from skipopt.drafting.base import DraftState
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.measurement.timing import device_clock
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.verification.match import Match
from skipopt.verification.target_rows import TargetRows

DRAFTED = 8  # steps of one timed draft; a single one is too short to be timed


class Steps:
    """A prefilled engine whose steps are timed.

    Args:
        text: the tokens before the round; the last is the current one.
        max_verified: most tokens of a verification.
    """

    def __init__(self, target: Target, text: Sequence[int], max_verified: int) -> None:
        self._target = target
        self._clock = device_clock(target.device)
        engine = Engine(target, len(text) + max(max_verified, DRAFTED))
        sampler = TokenSampler(SamplingOptions(), target.device, coupled=True)
        prefill(engine, text)
        self._state = DraftState(list(text), engine, sampler)
        self._verifier = Match()
        self._drafters: dict[SkipMask, LayerSkipDrafter] = {}

    def round(self, tokens: int) -> float:
        """Seconds of a target forward over so many tokens with verification; 1 is a plain step."""
        began = self._clock()
        self.run_round(tokens)
        return self._clock() - began

    def run_round(self, tokens: int) -> None:
        state = self._state
        start = state.engine.position
        draft = DraftTree.chain(state.tokens[: tokens - 1])
        logits = run_target(state, draft)
        self._verifier(draft, TargetRows(logits[:tokens]), state.sampler, len(state.tokens))
        state.engine.rewind(start)

    def draft_step(self, mask: SkipMask) -> float:
        """Seconds of one draft step under `mask`: an eighth of a draft of eight."""
        if mask not in self._drafters:
            self._drafters[mask] = LayerSkipDrafter(self._target, mask, DRAFTED)
        began = self._clock()
        self._drafters[mask].propose(self._state, DRAFTED)
        return (self._clock() - began) / DRAFTED
