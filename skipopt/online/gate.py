"""Does drafting pay at present? If not, decode plainly for a while and try again.

Judges by what rounds really took. Knows nothing of drafts or models.
"""

from __future__ import annotations

from skipopt.online.online_costs import RECENT, MovingAverage

FEWEST = 8  # drafted rounds before a verdict
SURE = 1.0  # standard errors by which drafts must lose before they are given up
FIRST_PAUSE, LONGEST_PAUSE = 16, 256  # plain rounds
REFRESH = 48  # rounds after which what was not seen since is looked at anew


class SpeculationGate:
    """Armed while drafted rounds gain on plain decoding.

    A round of t tokens and s seconds gains t − s/p tokens, where p are the seconds of a plain
    step. Drafting is given up when the mean gain is below zero by more than its standard error,
    and tried again after a pause, for `FEWEST` rounds: then their mean must be above zero, else
    the pause doubles. The first round is drafted and the second is not, for p; so is one in
    `REFRESH`.

    Whether a round is drafted depends on rounds before it alone, so sampling is not biased.

    Attributes:
        armed: drafting goes on, be it on trial.
        disarmed: how often it was given up.
        loss: tokens that a drafted round fell short of plain steps of the same time when drafting
            was last given up; None while it pays. A trial changes it only by its end.
    """

    def __init__(self) -> None:
        self.enabled = True
        self.pauses = 0
        self.loss: float | None = None
        self._gain = MovingAverage(RECENT)
        self._plain = MovingAverage()
        self._pause = FIRST_PAUSE
        self._left = 0  # plain rounds until the next trial
        self._on_trial = False
        self._drafted = 0  # rounds since drafting began, or began again
        self._since_plain = 0

    @property
    def wants_draft(self) -> bool:
        """Should the next round be drafted?"""
        known = self._plain.weight > 0
        fresh = self._since_plain < (REFRESH if known else 1)
        return self.enabled and fresh

    @property
    def gain(self) -> float | None:
        """Mean gain of a drafted round, in tokens; None where there were too few to tell."""
        return self._gain.mean if self._drafted >= FEWEST else None

    def text_changed(self) -> None:
        """Another text begins: what lost on the last one is tried again soon."""
        self._pause = FIRST_PAUSE
        self._left = min(self._left, FIRST_PAUSE)

    def drafts_changed(self, promising: bool) -> None:
        """Drafts are made in another way from now on: what they gained says nothing any more.

        Args:
            promising: they are expected to pay, so a pause ends at once.
        """
        if self.enabled or promising:
            self._begin(on_trial=self.loss is not None)

    def observe_plain(self, seconds: float) -> None:
        """A round without a draft."""
        self._plain.add_seconds(seconds)
        self._since_plain = 0
        if not self.enabled:
            self._left -= 1
            if self._left <= 0:
                self._begin(on_trial=True)

    def observe_drafted(self, tokens: int, seconds: float) -> None:
        """A round that emitted `tokens` after a draft."""
        self._since_plain += 1
        if not self._plain.weight:
            return
        self._gain.add(tokens - seconds / self._plain.mean)
        self._drafted += 1
        if self._drafted >= FEWEST:
            self._judge()

    def _begin(self, on_trial: bool) -> None:
        self.enabled, self._on_trial = True, on_trial
        self._gain = MovingAverage(RECENT)
        self._drafted = 0

    def _judge(self) -> None:
        bar = 0.0 if self._on_trial else -SURE * self._gain.error
        if self._gain.mean < bar:
            self.enabled = False
            self.pauses += 1
            self.loss = -self._gain.mean
            self._left = self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        elif self._on_trial:
            self._on_trial, self.loss = False, None
            self._pause = FIRST_PAUSE
