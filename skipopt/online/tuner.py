"""Online tuning of mask, γ and τ by predicted speed on the text that is being decoded.

SWIFT (arXiv 2410.06916) adopts a mask of higher matchness on the last fifty tokens, whatever its
cost. Here a candidate is compared with the current parameters on the same tokens, round by round
and over several texts, until the difference in predicted speed exceeds its noise. Predictions
ignore how errors add up within a draft, so a switch is rolled back if the drafted rounds that
follow are slower.
"""

from __future__ import annotations

from skipopt.averages import MovingAverage, Throughput
from skipopt.cost_model.costs import Costs
from skipopt.masks import MaskSpace, SkipMask
from skipopt.online.candidates import CandidateGenerator
from skipopt.online.comparison import ComparisonResult, DraftParameters, PairedComparison
from skipopt.online.config import OnlineConfig
from skipopt.online.online_costs import DraftCostEstimator
from skipopt.runtime.verify_costs import VerifyCostEstimator
from skipopt.scoring import Trace
from skipopt.stats import significantly_worse


class RollbackCheck:
    """Whether decoding became slower by a switch.

    Times are counted in plain steps, so that a machine that becomes slower changes nothing.

    Args:
        before: the parameters before the switch.
        rate: tokens per plain step of the rounds drafted with them.
        rounds: drafted rounds to wait for.
        alpha: significance level of a loss.
    """

    def __init__(self, before: DraftParameters, rate: float, rounds: int, alpha: float) -> None:
        self.before = before
        self._rate = rate
        self._rounds = rounds
        self._alpha = alpha
        self._gains: list[float] = []

    @property
    def done(self) -> bool:
        """Whether all rounds are in."""
        return len(self._gains) >= self._rounds

    @property
    def failed(self) -> bool:
        """Whether the rounds made significantly fewer tokens in their time; one look, at the end.

        The rate before the switch counts as exact.
        """
        return significantly_worse(self._gains, 0.0, self._alpha)

    def observe(self, tokens: int, steps: float) -> None:
        """Take in a drafted round."""
        self._gains.append(tokens - self._rate * steps)


class OnlineTuner:
    """The current draft parameters and the comparison with a candidate for them.

    Deterministic, given its calls.

    Args:
        parameters: to begin with.
        unskippable: positions of sublayers that no candidate skips.

    Attributes:
        config: settings; see `OnlineConfig`.
        parameters: the current ones.
        candidates: proposes what to compare them with.
        draft_cost: estimate of the cost of a draft step.
        scoring_seconds: average time of one scoring; measured and read by the drafter.
        max_gamma: largest γ of any candidate.
        window: tokens to score at a time.
        switches: candidates adopted.
        rollbacks: switches that were undone.
        scored_tokens: tokens that candidates were scored on.
    """

    def __init__(
        self,
        parameters: DraftParameters,
        config: OnlineConfig | None = None,
        unskippable: frozenset[int] = frozenset(),
    ) -> None:
        self.config = config = config or OnlineConfig()
        self.parameters = parameters
        space = MaskSpace(parameters.mask.layers, unskippable)
        self.max_gamma = max(config.max_gamma, parameters.gamma)
        self.window = max(config.score_tokens, 2 * self.max_gamma)
        self.candidates = CandidateGenerator(space, self.max_gamma, config)
        self.draft_cost = DraftCostEstimator(2 * space.layers, bool(parameters.draft_config))
        self.scoring_seconds = MovingAverage()
        self.switches = self.rollbacks = self.scored_tokens = 0
        self._comparison: PairedComparison | None = None
        self._check: RollbackCheck | None = None
        self._drafted = Throughput()  # with the current parameters, in plain steps

    def expected_seconds(self, verify: VerifyCostEstimator) -> float:
        """Expected time of proposing, if need be, and scoring a candidate."""
        scoring = self.scoring_seconds
        seconds = scoring.mean if scoring.weight else 2 * verify(self.window)
        return seconds + (self.candidates.seconds if self._comparison is None else 0.0)

    def costs(self, verify: VerifyCostEstimator) -> Costs:
        """The present estimates for chains of up to `max_gamma` tokens."""
        return self.draft_cost.costs(verify, self.max_gamma)

    def candidate(self) -> DraftParameters:
        """What to score next together with the current parameters."""
        if self._comparison is None:
            proposed = self.candidates.propose(self.parameters)
            self._comparison = PairedComparison(proposed, self.parameters)
        return self._comparison.candidate

    def tell(self, candidate: Trace, current: Trace, costs: Costs) -> ComparisonResult | None:
        """Take in traces of both on the same tokens.

        Returns:
            The comparison if the candidate was adopted, else None.
        """
        comparison = self._comparison
        assert comparison is not None, "ask for a candidate first"
        comparison.add(candidate, current)
        self.scored_tokens += int(candidate.lengths.sum())
        result = comparison.result(costs)
        wins = result.gain > self.config.win_errors * result.error
        loses = result.gain < -self.config.lose_errors * result.error
        adopted = wins and self._check is None  # the last switch is confirmed first
        if adopted or (not wins and (loses or len(comparison) >= self.config.max_rounds)):
            self._finish(comparison, result, costs)
        if not adopted:
            return None
        self._switch_to(comparison.candidate)
        return result

    def observe_round(self, tokens: int, steps: float) -> bool:
        """Take in a round drafted with the current parameters.

        Args:
            tokens: emitted.
            steps: its time, in plain steps.

        Returns:
            Whether the last switch was rolled back, so that the parameters changed.
        """
        self._drafted.add(tokens, steps)
        check = self._check
        if check is None:
            return False
        check.observe(tokens, steps)
        if not check.done:
            return False
        self._check = None
        if not check.failed:
            return False
        self.rollbacks += 1
        self.candidates.reject(self.parameters)
        self._adopt(check.before)
        return True

    def observe_draft(self, forwards: int, seconds: float, plain: float) -> None:
        """Take in the time of the draft forwards of a round; a plain step takes `plain`."""
        skipped = len(self.parameters.mask.skipped)
        self.draft_cost.observe(skipped, seconds / forwards, plain)

    def _finish(
        self, comparison: PairedComparison, result: ComparisonResult, costs: Costs
    ) -> None:
        """Keep both speedups: tokens per second of different times would not compare."""
        speeds: dict[SkipMask, float] = {
            comparison.current.mask: result.current_speed,
            comparison.candidate.mask: result.candidate_speed,
        }
        for mask, speed in speeds.items():
            self.candidates.record(mask, speed * costs.plain)
        self._comparison = None

    def _switch_to(self, parameters: DraftParameters) -> None:
        if self._drafted.known:
            rate, config = self._drafted.per_second, self.config
            self._check = RollbackCheck(
                self.parameters, rate, config.rollback_rounds, config.rollback_alpha
            )
        self.candidates.accept_all()
        self.switches += 1
        self._adopt(parameters)

    def _adopt(self, parameters: DraftParameters) -> None:
        self.parameters = parameters
        self._drafted = Throughput()
        self._comparison = None
        self.candidates.current_changed()
