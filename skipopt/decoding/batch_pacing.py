"""How far the texts of a batch are drafted in each round, and when drafting pauses.

Decided from the measured seconds of forwards over so many rows, v(n): where arithmetic bounds a
plain step of B texts already, verifying drafts of all of them costs nearly as much as decoding
their tokens one by one.
"""

from __future__ import annotations

import math
from dataclasses import replace

from skipopt.averages import ROUND_DECAY, MovingAverage
from skipopt.online.acceptance import AcceptanceTable
from skipopt.online.config import OnlineConfig
from skipopt.online.gate import SpeculationGate
from skipopt.rounds import Round
from skipopt.runtime.verify_costs import VerifyCostEstimator

PRIOR_ACCEPTANCE = 0.8  # of a drafted token after accepted ones, before any was verified
POSITIONS = 16  # of a draft; later ones are counted as the last
LEAST_GATE_ROUNDS = 2  # drafted rounds before drafting may pause
DEEPER_EVERY = 8  # drafted rounds, one of which drafts a token more, to know what that costs


class BatchPacing:
    """Decides before each round how many tokens are drafted for each text.

    The length is the one with the highest expected tokens per second, from the acceptance by
    position in the draft and the measured costs. Drafting pauses as `SpeculationGate` decides,
    with seconds as shares of a plain step of the same number of texts, and after fewer rounds, as
    each tells of several texts.

    Only for verification that emits the same tokens whatever is drafted.

    Args:
        max_rows: most rows of a forward.
        texts: most texts at once.

    Attributes:
        verify: v(n): seconds of the target's forward over n rows.
    """

    def __init__(self, max_rows: int, texts: int, config: OnlineConfig | None = None) -> None:
        self.verify = VerifyCostEstimator()
        config = config or OnlineConfig()
        rounds = max(LEAST_GATE_ROUNDS, math.ceil(config.gate_rounds / texts))
        self._gate = SpeculationGate(replace(config, gate_rounds=rounds))
        self._max_rows = max_rows
        self._acceptance = AcceptanceTable([PRIOR_ACCEPTANCE] * POSITIONS)
        self._draft_step = MovingAverage(ROUND_DECAY)  # seconds, as shares of a plain step
        self._texts = 0
        self._drafted_rounds = 0

    @property
    def pauses(self) -> int:
        """How often drafting was paused."""
        return self._gate.pauses

    def depth(self, texts: int, gamma: int) -> int:
        """Most tokens to draft for each of so many texts; 0 for a plain round.

        Args:
            gamma: most tokens of a draft of the method.
        """
        if texts != self._texts:
            self._texts = texts
            self._gate.text_changed()
        most = min(gamma, self._max_rows // texts - 1)
        if most < 1 or not self._gate.wants_draft:
            return 0
        best = self._best_depth(texts, most)
        return best if self._drafted_rounds % DEEPER_EVERY else min(most, best + 1)

    def observe(self, rounds: list[Round], draft_seconds: float, verify_seconds: float) -> None:
        """Take in a round of all texts."""
        texts = len(rounds)
        self.verify.observe(texts + sum(len(each.drafted) for each in rounds), verify_seconds)
        plain = self.verify(texts)
        steps = max(each.draft_forwards for each in rounds)
        if steps and self._drafted_rounds:  # the first ones prepare what drafts need
            self._draft_step.add_seconds(draft_seconds / steps / plain)
        seconds = (draft_seconds + verify_seconds) / plain
        if not any(each.drafted for each in rounds):
            self._gate.observe_plain(seconds)
            return
        self._drafted_rounds += 1
        tokens = sum(len(each.emitted) for each in rounds)
        self._gate.observe_drafted(tokens / texts, seconds)
        for each in rounds:
            self._observe_acceptance(each)

    def _observe_acceptance(self, round_: Round) -> None:
        """By position, up to the first rejected token."""
        for position in range(min(round_.accepted + 1, len(round_.drafted))):
            self._acceptance.observe(position, position < round_.accepted)

    def _best_depth(self, texts: int, most: int) -> int:
        verify = self.verify.up_to(texts * (most + 1))
        step = self._draft_step.mean * verify[texts - 1]
        expected, reached = 1.0, 1.0
        best, best_rate = 1, 0.0
        for depth in range(1, most + 1):
            reached *= self._acceptance.rate(depth - 1)
            expected += reached
            rate = expected / (depth * step + verify[texts * (depth + 1) - 1])
            if rate > best_rate:
                best, best_rate = depth, rate
        return best
