"""Everything one method learns while decoding, in one value that may go from text to text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from skipopt.averages import StepSeconds, Throughput
from skipopt.online.acceptance import (
    CopyAcceptance,
    MarginAcceptance,
    RankAcceptance,
    RunnerUpAcceptance,
    SecondCopyAcceptance,
    copy_acceptance,
)
from skipopt.online.comparison import DraftParameters
from skipopt.online.gate import SpeculationGate
from skipopt.online.swift_search import SwiftMaskSearch
from skipopt.online.tuner import OnlineTuner
from skipopt.runtime.verify_costs import VerifyCostEstimator


@dataclass(frozen=True, slots=True)
class TuningSummary:
    """What online tuning did, over all texts it was used for.

    Attributes:
        trials: candidates compared.
        switches: candidates adopted.
        rollbacks: switches that were undone.
        scored_tokens: tokens that candidates were scored on.
        seconds: time spent on tuning.
        overhead: the same as a share of the whole decoding time.
        enabled: whether drafting pays with the present parameters.
        pauses: how often drafting was paused.
        parameters: the present ones.
    """

    trials: int
    switches: int
    rollbacks: int
    scored_tokens: int
    seconds: float
    overhead: float
    enabled: bool
    pauses: int
    parameters: DraftParameters

    def to_json(self) -> dict[str, Any]:
        """The fields by name; the parameters as `mask`, `gamma`, `tau` and `draft_config`."""
        values = asdict(self)
        del values["parameters"]
        mask = self.parameters.mask
        return values | {
            "mask": {"attention": list(mask.attention), "mlp": list(mask.mlp)},
            "gamma": self.parameters.gamma,
            "tau": self.parameters.tau,
            "draft_config": str(self.parameters.draft_config),
        }


@dataclass(slots=True)
class OnlineState:
    """What one method has learned of one model on this machine; not for two texts at once.

    Attributes:
        verify: cost of verification.
        gate: whether drafts made by the model pay.
        drafted: throughput of rounds drafted by the model.
        rounds_since_drafted: rounds since the last one.
        overall: throughput of all rounds.
        copy_acceptance: how often copied tokens are accepted, by source.
        draft_acceptance: how often tokens that the model drafted are.
        draft_step: seconds for each token that the model drafts.
        runner_up_acceptance: how often their second choice is, where the first is wrong.
        second_copy_acceptance: the same of copied tokens.
        recycled_acceptance: how often recycled tokens are, where nothing else was drafted.
        sibling_acceptance: the same where something else was drafted, and was wrong.
        mask_search: SWIFT's search for a better mask, where there is one.
        tuner: the tuning of mask, γ and τ by predicted speed, where there is one.
        search_seconds, decode_seconds: time of the mask search or tuning, and of all else.
    """

    verify: VerifyCostEstimator = field(default_factory=VerifyCostEstimator)
    gate: SpeculationGate = field(default_factory=SpeculationGate)
    drafted: Throughput = field(default_factory=Throughput)
    rounds_since_drafted: int = 0
    overall: Throughput = field(default_factory=Throughput)
    copy_acceptance: CopyAcceptance = field(default_factory=copy_acceptance)
    draft_acceptance: MarginAcceptance = field(default_factory=MarginAcceptance)
    draft_step: StepSeconds = field(default_factory=StepSeconds)
    runner_up_acceptance: RunnerUpAcceptance = field(default_factory=RunnerUpAcceptance)
    second_copy_acceptance: SecondCopyAcceptance = field(default_factory=SecondCopyAcceptance)
    recycled_acceptance: RankAcceptance = field(default_factory=RankAcceptance)
    sibling_acceptance: RankAcceptance = field(default_factory=RankAcceptance)
    mask_search: SwiftMaskSearch | None = None
    tuner: OnlineTuner | None = None
    search_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens per second of recent rounds, or of plain steps if these are faster."""
        return max(self.overall.per_second, 1 / self.verify.plain)

    @property
    def overhead(self) -> float:
        """Share of the whole time so far that search or tuning took."""
        whole = self.search_seconds + self.decode_seconds
        return self.search_seconds / whole if whole else 0.0

    def affords(self, seconds: float, overhead: float) -> bool:
        """Whether `seconds` more of search would keep it within a share `overhead` of the time."""
        spent = self.search_seconds + seconds
        return spent <= overhead * (spent + self.decode_seconds)

    def __post_init__(self) -> None:
        if self.verify.knows_plain:  # from earlier texts: no round has to measure it at once
            self.gate.observe_plain(self.verify.plain, self.verify.plain_age)

    def observe(
        self,
        tokens: int,
        rows: int,
        draft_seconds: float,
        verify_seconds: float,
        copied: bool,
        branches: bool = False,
    ) -> None:
        """Take in one round.

        Args:
            tokens: emitted.
            rows: of the verifying forward; 1 where nothing was drafted.
            copied: the draft took no forward, so it says nothing about drafts that do.
            branches: the draft is a tree whose cost is learned apart from that of chains.
        """
        seconds = draft_seconds + verify_seconds
        self.decode_seconds += seconds
        self.overall.add(tokens, seconds)
        (self.verify.observe_tree if branches else self.verify.observe)(rows, verify_seconds)
        self.rounds_since_drafted += 1
        if rows == 1:
            self.gate.observe_plain(seconds, self.verify.plain_age)
        elif not copied:
            self.observe_drafted(tokens, seconds)

    def observe_drafted(self, tokens: int, seconds: float) -> None:
        """Take in what a draft of the model gave, in a round that is taken in already.

        Args:
            tokens: that it emitted, with the one after the last accepted.
            seconds: of the draft and its verification, without other rows.
        """
        self.gate.observe_drafted(tokens, seconds)
        self.drafted.add(tokens, seconds)
        self.rounds_since_drafted = 0

    def tuning_summary(self) -> TuningSummary:
        """What the tuner did.

        Raises:
            ValueError: there is no tuner.
        """
        if self.tuner is None:
            raise ValueError("nothing is tuned")
        return TuningSummary(
            trials=self.tuner.candidates.count,
            switches=self.tuner.switches,
            rollbacks=self.tuner.rollbacks,
            scored_tokens=self.tuner.scored_tokens,
            seconds=self.search_seconds,
            overhead=self.overhead,
            enabled=self.gate.loss is None,
            pauses=self.gate.pauses,
            parameters=self.tuner.parameters,
        )
