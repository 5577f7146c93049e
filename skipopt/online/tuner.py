"""Which mask, γ and τ to draft with, judged by predicted speed on the text being written.

SWIFT (arXiv 2410.06916) adopts a mask whose matchness over fifty tokens is higher, whatever it
costs. Here a candidate is held against what is in force, on the same tokens, round by round, until
the difference in predicted speed is larger than its noise; rounds are gathered over texts. And
since a prediction knows nothing of how errors add up within a draft, a swap is undone where the
rounds that follow tell against it.
Knows nothing of drafters or clocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from skipopt.errors import UsageError
from skipopt.masks import MaskSpace, SkipMask
from skipopt.online.online_costs import RECENT, MovingAverage, Throughput
from skipopt.online.swift_search import EVERY
from skipopt.online.traces import SimulatedRound, Trace

WINDOW = 32  # tokens scored in one forward
SURE = 2.5  # standard errors by which a candidate must win
HOPELESS = 1.0  # standard errors by which it must lose to be dropped at once
MOST = 768  # rounds after which a candidate that has not won is dropped
LONGEST = 16  # γ that candidates go up to
STEP = 0.1  # of τ
PROBATION = 32  # drafted rounds after a swap until it is final
REGRET = 2.0  # standard errors by which it must have lost then to be undone
SUGGESTION = 1.0  # seconds that a Bayesian suggestion is expected to take, its imports included

RoundSeconds = Callable[[SkipMask, int], float]  # of a round: its mask, tokens drafted


@dataclass(frozen=True, slots=True)
class DraftParameters:
    """What drafts are made with: a mask, draft length γ and stop threshold τ."""

    mask: SkipMask
    gamma: int
    tau: float


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """A candidate beside what is in force.

    Attributes:
        gain: tokens that a round yields beyond what is in force makes of its time, on average.
        error: standard error of that.
        speed, in_force: predicted tokens per second of both.
    """

    gain: float
    error: float
    speed: float
    in_force: float


@dataclass(slots=True)
class PairedComparison:
    """One candidate against what is in force, on the same places of the same texts.

    Attributes:
        plays: rounds of both, as pairs (candidate, in force).
    """

    candidate: DraftParameters
    in_force: DraftParameters
    plays: list[tuple[SimulatedRound, SimulatedRound]] = field(default_factory=list)

    @property
    def reach(self) -> int:
        return max(self.candidate.gamma, self.in_force.gamma)

    def add(self, candidate: Trace, in_force: Trace) -> None:
        pair = ((candidate, self.candidate), (in_force, self.in_force))
        rounds = (trace.rounds(each.gamma, each.tau, self.reach) for trace, each in pair)
        self.plays += zip(*rounds, strict=True)

    def judge(self, seconds: RoundSeconds) -> ComparisonResult:
        """At the prices of now.

        A round gains t − λ·s, λ being the speed of what is in force: so the mean gain of the
        candidate is above zero where its speed is above λ, however long its rounds are.
        """
        ours = [(p.tokens, seconds(self.candidate.mask, p.drafted)) for p, _ in self.plays]
        theirs = [(p.tokens, seconds(self.in_force.mask, p.drafted)) for _, p in self.plays]
        speed, rate = _speed(ours), _speed(theirs)
        pairs = zip(ours, theirs, strict=True)
        gains = [(t - rate * s) - (u - rate * v) for (t, s), (u, v) in pairs]
        return ComparisonResult(*_mean_and_error(gains, self.reach), speed, rate)


def _speed(rounds: list[tuple[int, float]]) -> float:
    return sum(tokens for tokens, _ in rounds) / sum(seconds for _, seconds in rounds)


def _mean_and_error(gains: list[float], reach: int) -> tuple[float, float]:
    """As if one round more had lost a token, so that a few rounds that went well prove little.

    Rounds that begin within `reach` of each other share tokens: so many count as one.
    """
    gains = [*gains, -1.0]
    count = len(gains)
    mean = sum(gains) / count
    variance = sum((gain - mean) ** 2 for gain in gains) / (count - 1)
    return mean, float((variance * reach / count) ** 0.5)


class RollbackCheck:
    """Does a swap keep what it promised? In time of plain steps, whatever the machine does.

    Args:
        before: what was in force.
        rate: tokens that its rounds made in the time of a plain step.
    """

    def __init__(self, before: DraftParameters, rate: float) -> None:
        self.before = before
        self._rate = rate
        self._gain = MovingAverage(RECENT)
        self.left = PROBATION

    def observe(self, tokens: int, steps: float) -> None:
        self._gain.add(tokens - self._rate * steps)
        self.left -= 1

    @property
    def failed(self) -> bool:
        return self._gain.mean < -REGRET * self._gain.error


class OnlineTuner:
    """The setting in force and the contest under way. Deterministic, given what it is told.

    Candidates are neighbours of what is in force: one sublayer flipped, γ one longer or shorter,
    or τ a step higher or lower; every 25th is suggested by Bayesian optimisation, as in SWIFT.

    Args:
        setting: to begin with.
        share: of all time, the most that this may take.
        seed: of candidates.

    Attributes:
        setting: in force.
        window: tokens to be scored at a time.
        longest: greatest γ of any candidate.
        trials: candidates so far.
        swaps: candidates that came in force.
        undone: swaps that were taken back.
        scored: tokens that candidates were scored on.
        bout: seconds that scoring once takes; for others to tell and to read.

    Raises:
        UsageError: a share outside (0, 1].
    """

    def __init__(self, setting: DraftParameters, share: float = 0.01, seed: int = 0) -> None:
        if not 0 < share <= 1:
            raise UsageError(f"the share must lie in (0, 1], not {share}", hint="try 0.01")
        self.setting = setting
        self.share = share
        self.seed = seed
        self.longest = max(LONGEST, setting.gamma)
        self.window = max(WINDOW, 2 * self.longest)
        self.trials = self.switches = self.rollbacks = self.scored = 0
        self.bout = MovingAverage()
        self._space = MaskSpace(setting.mask.layers)
        self._contest: PairedComparison | None = None
        self._untried: list[DraftParameters] = []
        self._values: dict[SkipMask, float] = {}
        self._rng = Random(seed)
        self._live = Throughput()  # of drafted rounds under the setting in force, in plain steps
        self._probation: RollbackCheck | None = None
        self._refused: set[DraftParameters] = set()

    @property
    def price(self) -> float:
        """Seconds that finding the next candidate takes."""
        return SUGGESTION if self._contest is None and self._due else 0.0

    @property
    def _due(self) -> bool:
        return (self.trials + 1) % EVERY == 0 and len(self._values) > 1

    def candidate(self) -> DraftParameters:
        """What is to be scored next beside what is in force."""
        if self._contest is None:
            self._contest = PairedComparison(self._next(), self.setting)
            self.trials += 1
        return self._contest.candidate

    def tell(
        self, candidate: Trace, in_force: Trace, seconds: RoundSeconds
    ) -> ComparisonResult | None:
        """What both would have done on the same tokens; the verdict where it was a swap."""
        contest = self._contest
        assert contest is not None
        contest.add(candidate, in_force)
        self.scored += len(candidate.hits)
        verdict = contest.judge(seconds)
        wins = verdict.gain > SURE * verdict.error
        hopeless = verdict.gain < -HOPELESS * verdict.error
        won = wins and self._probation is None  # one swap at a time
        if won or (not wins and (hopeless or len(contest.plays) >= MOST)):
            self._end(contest, verdict, seconds(SkipMask.empty(self._space.layers), 0))
        if not won:
            return None
        if self._live.known:
            self._probation = RollbackCheck(self.setting, self._live.per_second)
        self._refused = set()
        self.switches += 1
        self._adopt(contest.candidate)
        return verdict

    def observe(self, tokens: int, steps: float) -> bool:
        """A drafted round under the setting in force, in time of plain steps.

        Returns:
            The last swap was taken back, so that another setting is in force from now on.
        """
        self._live.add(tokens, steps)
        if self._probation is None:
            return False
        self._probation.observe(tokens, steps)
        if self._probation.left > 0:
            return False
        ended, self._probation = self._probation, None
        if not ended.failed:
            return False
        self.rollbacks += 1
        self._refused.add(self.setting)
        self._adopt(ended.before)
        return True

    def _adopt(self, setting: DraftParameters) -> None:
        self.setting = setting
        self._live = Throughput()
        self._contest, self._untried = None, []

    def _end(self, contest: PairedComparison, verdict: ComparisonResult, plain: float) -> None:
        """Remember both as speedups: seconds of other days would not compare."""
        self._values[contest.in_force.mask] = verdict.in_force * plain
        self._values[contest.candidate.mask] = verdict.speed * plain
        self._contest = None

    def _next(self) -> DraftParameters:
        if self._due:
            from skipopt.gaussian_process import suggest_mask

            mask = suggest_mask(self._space, self._values, self._rng, self.seed)
            return replace(self.setting, mask=mask)
        if not self._untried:
            self._untried = [s for s in self._neighbors() if s not in self._refused]
            self._rng.shuffle(self._untried)
        return self._untried.pop()

    def _neighbors(self) -> list[DraftParameters]:
        now = self.setting
        lengths = {max(1, now.gamma - 1), min(self.longest, now.gamma + 1)} - {now.gamma}
        levels = {max(0.0, now.tau - STEP), min(1.0, now.tau + STEP)} - {now.tau}
        return [
            *(replace(now, mask=mask) for mask in self._space.neighbors(now.mask)),
            *(replace(now, gamma=gamma) for gamma in sorted(lengths)),
            *(replace(now, tau=round(tau, 4)) for tau in sorted(levels)),
        ]
