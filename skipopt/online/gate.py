"""Pauses speculation while drafted rounds are slower than plain decoding."""

from __future__ import annotations

import math

from skipopt.averages import ROUND_DECAY, MovingAverage
from skipopt.online.config import OnlineConfig


class SpeculationGate:
    """Decides before each round whether to draft, from the measured times of earlier rounds.

    A round of t tokens and s seconds gains t − s/p tokens over plain decoding, where p are the
    seconds of a plain step. Drafting is paused when the mean gain is below zero by more than
    `gate_errors` standard errors, or, in the first `gate_rounds` rounds, `early_errors` of them.
    After a pause it is on trial for `gate_rounds` rounds: if their mean gain is not positive, it
    is paused for longer, up to the time in which the lost tokens are a share `loss_share` of all.
    The first round is drafted and the second is plain, to measure p; after that one in
    `plain_every` rounds is plain.

    The mean weights recent rounds more, and it is looked at after every round, so this is not
    the test of `stats.significantly_worse` on equally weighted samples. A wrong pause costs only
    its length, and the first one is short.

    Whether a round is drafted depends on earlier rounds only, so sampling is not biased.

    Attributes:
        config: settings; see `OnlineConfig`.
        enabled: drafting goes on, possibly on trial.
        pauses: how often drafting was paused.
        loss: tokens per drafted round that were lost against plain decoding when drafting was
            last paused; None while it pays. A trial changes it only when it ends.
    """

    def __init__(self, config: OnlineConfig | None = None) -> None:
        self.config = config or OnlineConfig()
        self.enabled = True
        self.pauses = 0
        self.loss: float | None = None
        self._gain = MovingAverage(ROUND_DECAY)
        self._plain = MovingAverage()
        self._longest = self.config.first_pause  # of the next pause
        self._left = 0  # plain rounds until the next trial
        self._losing_texts = 0  # in a row
        self._on_trial = False
        self._drafted = 0  # rounds since drafting began or was resumed
        self._since_plain = 0

    @property
    def wants_draft(self) -> bool:
        """Whether the next round should be drafted."""
        return self.enabled and not self.plain_is_due

    @property
    def plain_is_due(self) -> bool:
        """Whether the cost of a plain step should be measured before the next drafted round."""
        known = self._plain.weight > 0
        return self._since_plain >= (self.config.plain_every if known else 1)

    @property
    def gain(self) -> float | None:
        """Mean gain of a drafted round in tokens; None before `gate_rounds` of them."""
        return self._gain.mean if self._drafted >= self.config.gate_rounds else None

    def text_changed(self) -> None:
        """Another text begins: shorten the pause, unless drafts lost in many texts before it."""
        self._losing_texts = 0 if self.loss is None else self._losing_texts + 1
        if self._losing_texts < self.config.losing_texts:
            self._left = min(self._left, self.config.first_pause)

    def drafts_changed(self, promising: bool) -> None:
        """Drafts are made with other settings from now on: forget the gain of the old ones.

        Args:
            promising: the new drafts are predicted to pay, so a pause ends at once.
        """
        if self.enabled or promising:
            self._resume(on_trial=self.loss is not None)

    def observe_plain(self, seconds: float, rounds_ago: int = 0) -> None:
        """Take in a round without a draft, or what an earlier text has measured so long ago."""
        self._plain.add_seconds(seconds)
        self._since_plain = rounds_ago
        if not self.enabled:
            self._left -= 1
            if self._left <= 0:
                self._resume(on_trial=True)

    def observe_drafted(self, tokens: float, seconds: float) -> None:
        """Take in a drafted round that emitted `tokens` tokens."""
        self._since_plain += 1
        if not self._plain.weight:
            return
        self._gain.add(tokens - seconds / self._plain.mean)
        self._drafted += 1
        if self._drafted >= min(self.config.early_rounds, self.config.gate_rounds):
            self._decide()

    def _resume(self, on_trial: bool) -> None:
        self.enabled, self._on_trial = True, on_trial
        self._gain = MovingAverage(ROUND_DECAY)
        self._drafted = 0

    def _decide(self) -> None:
        early = self._drafted < self.config.gate_rounds
        if self._gain.mean < -self._errors(early) * self._gain.error:
            self._begin_pause()
        elif self._on_trial and not early:
            self._on_trial, self.loss = False, None
            self._longest = self.config.first_pause

    def _errors(self, early: bool) -> float:
        """Standard errors by which the mean gain must be below zero for a pause."""
        config = self.config
        if early:
            return max(config.gate_errors, config.early_errors)
        return 0.0 if self._on_trial else config.gate_errors

    def _begin_pause(self) -> None:
        config, lost = self.config, -self._gain.total
        self.enabled = False
        self.pauses += 1
        self.loss = -self._gain.mean
        repaid = max(config.first_pause, math.ceil(lost / config.loss_share))
        self._left = min(self._longest, repaid)
        self._longest = min(4 * self._longest, config.longest_pause)
