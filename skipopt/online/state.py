"""All that is learned while decoding, in one value that may go from text to text.

Knows nothing of drafters: rounds are told.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from skipopt.online.gate import SpeculationGate
from skipopt.online.ngram_stats import NgramAcceptance
from skipopt.online.online_costs import (
    RECENT,
    DraftCostEstimator,
    MovingAverage,
    Throughput,
    VerifyCostEstimator,
)
from skipopt.online.swift_search import SwiftMaskSearch
from skipopt.online.tuner import OnlineTuner


@dataclass(slots=True)
class OnlineState:
    """What one method has learned of one model on this machine; not for two texts at once.

    Attributes:
        verify: what verification costs.
        arming: whether drafts made by the model pay.
        own: what a round with such a draft yields and takes.
        since_own: rounds since the last one.
        overall: the same of all rounds.
        whole: how often all that the model drafted stands.
        copying: how often copied tokens stand.
        search: the mask in force and the search for a better one, where there is a search.
        tuning: the same by predicted speed, with γ and τ, where there is one.
        draft: what a draft step costs, where there is a tuning.
        search_seconds, decode_seconds: spent on searching, and on everything else.
    """

    verify: VerifyCostEstimator = field(default_factory=VerifyCostEstimator)
    gate: SpeculationGate = field(default_factory=SpeculationGate)
    own: Throughput = field(default_factory=Throughput)
    since_own: int = 0
    overall: Throughput = field(default_factory=Throughput)
    whole: MovingAverage = field(default_factory=lambda: MovingAverage(RECENT))
    copying: NgramAcceptance = field(default_factory=NgramAcceptance)
    search: SwiftMaskSearch | None = None
    tuning: OnlineTuner | None = None
    draft: DraftCostEstimator | None = None
    search_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens that a second is worth: those of late, or of plain steps if these are more."""
        return max(self.overall.per_second, 1 / self.verify.plain)

    @property
    def share(self) -> float:
        """Of all time so far, what the search took."""
        whole = self.search_seconds + self.decode_seconds
        return self.search_seconds / whole if whole else 0.0

    def affords(self, seconds: float, share: float) -> bool:
        """Would the search keep within `share` of the time if it took so much more?"""
        spent = self.search_seconds + seconds
        return spent <= share * (spent + self.decode_seconds)

    def observe(
        self, tokens: int, rows: int, draft_seconds: float, verify_seconds: float, copied: bool
    ) -> None:
        """One round.

        Args:
            tokens: emitted.
            rows: of the verifying forward; 1 where nothing was drafted.
            copied: the draft cost no forward, so it says nothing of drafts that do.
        """
        seconds = draft_seconds + verify_seconds
        self.decode_seconds += seconds
        self.overall.add(tokens, seconds)
        self.verify.observe(rows, verify_seconds)
        self.since_own += 1
        if rows == 1:
            self.gate.observe_plain(seconds)
        elif not copied:
            self.gate.observe_drafted(tokens, seconds)
            self.own.add(tokens, seconds)
            self.since_own = 0
