"""How long each phase of a search may take, from the time limit and the first steps it timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING, Literal, get_args

from skipopt.errors import SearchError

if TYPE_CHECKING:
    from skipopt.scoring import ScoredText

Phase = Literal["calibrate", "costs", "search", "validate"]
PHASES: tuple[Phase, ...] = get_args(Phase)
NAMES: Mapping[Phase, str] = {
    "calibrate": "texts",
    "costs": "costs",
    "search": "trials",
    "validate": "validation",
}
# Share of the time limit that is planned; the rest is for the ends of phases.
PLANNED_SHARE = 0.97
# Time of one cycle of `bench.cost_measurement` with drafts of up to eight tokens, in plain steps.
PLAIN_STEPS_PER_CYCLE = 50

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment at which something must end.

    Attributes:
        at: reading of the clock; infinite where nothing limits the time.
    """

    at: float = inf
    clock: Clock = time.monotonic

    @property
    def left(self) -> float:
        """Seconds until then; negative afterwards."""
        return self.at - self.clock()

    @property
    def is_over(self) -> bool:
        return self.left <= 0

    @property
    def is_finite(self) -> bool:
        return self.at < inf

    def fits(self, seconds: float) -> bool:
        """Whether something that takes so long would end in time."""
        return seconds <= self.left

    def part(self, share: float) -> Deadline:
        """A deadline after this share of the time that is left."""
        if not self.is_finite:
            return self
        return Deadline(self.clock() + share * max(0.0, self.left), self.clock)


NEVER = Deadline()


@dataclass(slots=True)
class Pace:
    """How fast the target runs here, in seconds; updated by what is timed later.

    Attributes:
        token: of a plain decoding step.
        prompt_token: of the prefill, per token of the prompt.
        row: of scoring, per row of a forward; None until it is measured.
    """

    token: float
    prompt_token: float
    row: float | None = None

    def text(self, prompt_tokens: float, new_tokens: float) -> float:
        """Seconds to decode a text plainly."""
        return prompt_tokens * self.prompt_token + new_tokens * self.token

    @property
    def scored_row(self) -> float:
        """Seconds to score a row, as far as is known."""
        return self.prompt_token if self.row is None else self.row

    def scoring(self, texts: Sequence[ScoredText], masks: int = 1, steps: int = 1) -> float:
        """Seconds to score masks on texts whose keys and values are known.

        Args:
            steps: tokens of each draft.
        """
        return self.scored_row * masks * steps * _positions(texts)

    def contexts(self, texts: Sequence[ScoredText]) -> float:
        """Seconds to compute the keys and values of texts."""
        return self.prompt_token * sum(len(text.tokens) for text in texts)

    def measured(self, seconds: float, texts: Sequence[ScoredText], steps: int) -> None:
        """Note how long it took to score one mask on texts whose keys and values were known."""
        self.row = seconds / (steps * _positions(texts))


def _positions(texts: Sequence[ScoredText]) -> int:
    return sum(len(text.continuation) for text in texts)


@dataclass(frozen=True, slots=True)
class Need:
    """What a phase needs.

    Attributes:
        least: seconds without which it gives no answer.
        most: seconds after which more of them change nothing.
        weight: share of the time between these, relative to the other phases.
    """

    least: float
    most: float
    weight: float = 1.0


class TimePlan:
    """Divides the time limit of a search among its phases.

    Before `set_needs`, and without a limit, no phase has a deadline.

    Args:
        limit: seconds of the whole search; None: the needs decide, up to `longest`.
        longest: see `limit`; infinite where trials are counted instead, so nothing is limited.
        clock: seconds.

    Attributes:
        pace: how fast the target runs here; set by `set_needs`.
    """

    def __init__(
        self, limit: float | None, longest: float = inf, clock: Clock = time.monotonic
    ) -> None:
        self.pace: Pace | None = None
        self.clock = clock
        self._limit = limit
        self._longest = longest
        self._start = clock()
        self._needs: dict[Phase, Need] = {}
        self._phase: Phase = PHASES[0]
        self._phase_start = self._start
        self._seconds: dict[Phase, float] = {}
        self._deadline = NEVER

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return self.clock() - self._start

    @property
    def seconds_by_phase(self) -> dict[Phase, float]:
        """Of each phase that has begun, the present one included."""
        present = self._seconds.get(self._phase, 0.0) + self.clock() - self._phase_start
        return {**self._seconds, self._phase: present}

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit, or there will be one with the needs."""
        return self._limit is not None or self._longest < inf

    @property
    def deadline(self) -> Deadline:
        """Of the present phase."""
        return self._deadline

    @property
    def end(self) -> Deadline:
        """Of the whole search."""
        if self._limit is None:
            return NEVER
        return Deadline(self._start + PLANNED_SHARE * self._limit, self.clock)

    @property
    def seconds_left(self) -> float | None:
        """Until the search ends by the plan; None where it has no limit."""
        if self._limit is None:
            return None
        left = max(0.0, self._limit - self.seconds)
        if not self._needs:
            return left
        later = PHASES[PHASES.index(self._phase) + 1 :]
        planned = max(0.0, self._deadline.left)
        return min(left, planned + sum(self._divided(later, self._end_left - planned).values()))

    def set_needs(self, pace: Pace, needs: Mapping[Phase, Need]) -> None:
        """Plan the phases from the present one on.

        Raises:
            SearchError: the time limit is too short for what the phases need at least.
        """
        self.pace = pace
        self._needs = dict(needs)
        if self._limit is None and self._longest < inf:
            wanted = self.seconds + sum(need.most for need in needs.values())
            self._limit = min(self._longest, wanted / PLANNED_SHARE)
            least = self.seconds + sum(need.least for need in needs.values())
            self._limit = max(self._limit, least / PLANNED_SHARE)  # a slow model takes longer
        self._check_limit()
        self.begin(self._phase)

    def begin(self, phase: Phase) -> Deadline:
        """The deadline of a phase that begins now: it gets what earlier ones have left, too."""
        self._seconds = self.seconds_by_phase
        self._phase, self._phase_start = phase, self.clock()
        if self._limit is None or not self._needs:
            self._deadline = NEVER
        else:
            following = PHASES[PHASES.index(phase) :]
            seconds = self._divided(following, self._end_left)[phase]
            self._deadline = Deadline(self.clock() + seconds, self.clock)
        return self._deadline

    def __str__(self) -> str:
        """`about 2 min 40 s: 20 s texts, 15 s costs, 80 s trials, 45 s validation`."""
        if self._limit is None:
            return "no time limit"
        parts = self._divided(PHASES, self._end_left)
        each = ", ".join(f"{seconds:.0f} s {NAMES[phase]}" for phase, seconds in parts.items())
        return f"about {_duration(self._limit)}: {each}"

    @property
    def _end_left(self) -> float:
        return max(0.0, self.end.left)

    def _divided(self, phases: Sequence[Phase], seconds: float) -> dict[Phase, float]:
        return divide(seconds, {phase: self._needs[phase] for phase in phases})

    def _check_limit(self) -> None:
        least = (self.seconds + sum(need.least for need in self._needs.values())) / PLANNED_SHARE
        if self._limit is None or least <= self._limit:
            return
        raise SearchError(
            f"a search of this model takes about {ceil(least)} s at least here, and its time "
            f"limit is {self._limit:g} s",
            hint=f"--timeout {ceil(1.2 * least)}",
        )


def divide(seconds: float, needs: Mapping[Phase, Need]) -> dict[Phase, float]:
    """Seconds of each phase: what it needs at least, and its share of the rest, up to its most.

    What one cannot use is shared by the others. Where the least needs are more than `seconds`,
    they are cut in proportion.
    """
    least = sum(need.least for need in needs.values())
    if least >= seconds:
        return {phase: seconds * need.least / (least or 1.0) for phase, need in needs.items()}
    given = {phase: need.least for phase, need in needs.items()}
    rest = seconds - least
    open_phases = [phase for phase, need in needs.items() if need.most > need.least]
    while open_phases and rest > 1e-9:
        share = rest / sum(needs[phase].weight for phase in open_phases)
        for phase in open_phases:
            more = min(share * needs[phase].weight, needs[phase].most - given[phase])
            given[phase] += more
            rest -= more
        open_phases = [phase for phase in open_phases if given[phase] < needs[phase].most - 1e-9]
    return given


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
