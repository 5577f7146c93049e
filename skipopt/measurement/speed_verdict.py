"""Whether a speedup is kept: a sequential test against a baseline's texts and against a floor.

Two questions are asked after every block of timings:

- Against the baseline: is at least 1 - tolerance of the speedup left? The speedup of each text is
  divided by that in the baseline (`paired_texts.change`).
- Against the floor: is the speedup at least so high?

A question is answered once the bound of its estimate lies on one side of what must be kept. Each
look spends part of `ERROR_RATE`: look k spends 1 / (k (k + 1)) of it, and the last one what is
left. These add up to `ERROR_RATE` however many looks there are and whatever they have in common
(Bonferroni), so a speedup exactly at what must be kept gets either answer in at most that share of
runs. This holds for the errors below:

- of texts: estimated from the spread of their changes, noise of the baseline's run included;
- of runs: two runs of the same program differ by more than their texts show. `RUN_ERROR` is
  declared, because one run cannot show it. Source: the three versions of `results/check.json` of
  one machine, at 229cf00, 0766c76 and a3e6d73, differ by 1, 2 and 4 %, of which texts explain 1.4;
- of the machine's state: where plain decoding itself is faster or slower than in the baseline,
  memory or processor are shared differently, and that changes drafts by other factors than plain
  decoding. Source: in the same versions plain decoding differs by 8 to 18 %, and the speedup by no
  more than above; but within `results/default-search.json` it is 20 % faster in some minutes, and
  the speedup 23 % lower. So changes up to `SAME_STATE` count as those of any two runs, and of the
  excess `STATE_SHARE` counts as an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from skipopt.measurement import paired_texts
from skipopt.measurement.paired_texts import TextTimes
from skipopt.stats import Estimate, Interval, Side

Verdict = Literal["pass", "fail", "inconclusive"]

ERROR_RATE = 0.05  # of each of both wrong answers to one question
RUN_ERROR = 0.015  # standard deviation of ln(speedup) between runs of the same program
STATE_SHARE = 1.0  # error of ln(speedup) for each change of ln(seconds of plain decoding)
SAME_STATE = 0.1  # changes of ln(seconds of plain decoding) up to this are those of any two runs
WIDEST = 50.0  # bounds of ln(ratio)


def error_rate(look: int, is_last: bool) -> float:
    """The part of `ERROR_RATE` that a look spends; looks count from 1."""
    return ERROR_RATE / (look if is_last else look * (look + 1))


@dataclass(frozen=True, slots=True)
class Answer:
    """An estimated ratio with bounds, and on which side of `least` they lie."""

    ratio: Interval
    least: float

    @classmethod
    def of(cls, estimate: Estimate, least: float, rate: float) -> Answer:
        low, high = (math.exp(min(max(each, -WIDEST), WIDEST)) for each in estimate.bounds(rate))
        return cls(Interval(math.exp(estimate.mean), low, high), least)

    @property
    def side(self) -> Side:
        return self.ratio.side_of(self.least)

    def __str__(self) -> str:
        return f"{self.ratio.median:.3f} ({self.ratio.low:.3f} to {self.ratio.high:.3f})"


@dataclass(frozen=True, slots=True)
class Kept:
    """How much of the baseline's speedup is left.

    Attributes:
        answer: the share that is left, and the least share that must be.
        prompts: number of texts that both runs decoded.
        plain: plain decoding's seconds now ÷ those in the baseline.
        errors: standard errors of ln(share) by source: `texts`, `runs`, `machine`.
    """

    answer: Answer
    prompts: int
    plain: float
    errors: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """The key `kept` of `check --json`."""
        return {
            "ratio": self.answer.ratio.to_json(),
            "least": self.answer.least,
            "prompts": self.prompts,
            "plain_seconds_ratio": self.plain,
            "errors": dict(self.errors),
        }


@dataclass(frozen=True)
class Look:
    """What the timings up to now say.

    Attributes:
        floor: the speedup against the least one.
        kept: the change since the baseline; None where no texts are compared.
        has_other_texts: whether the baseline has texts, but none of these.
    """

    floor: Answer
    kept: Kept | None = None
    has_other_texts: bool = False

    @cached_property
    def verdict(self) -> Verdict:
        """`inconclusive` as long as a question is open and none has failed."""
        sides = [self.floor.side, *([self.kept.answer.side] if self.kept else [])]
        if "below" in sides:
            return "fail"
        return "inconclusive" if "straddles" in sides else "pass"

    @property
    def reason(self) -> str:
        """One line: the answers, and where one is missing, what would help."""
        answers = [self._floor_reason(), *([self._kept_reason()] if self.kept else [])]
        if self.has_other_texts:
            answers.append("none of the baseline's texts was decoded here")
        if self.verdict == "inconclusive":
            answers.append(self._what_helps())
        return "; ".join(answers)

    def _floor_reason(self) -> str:
        where = {
            "above": "keeps the threshold of",
            "below": "is below the threshold of",
            "straddles": "is on both sides of the threshold of",
        }[self.floor.side]
        return f"end-to-end speedup {self.floor} {where} {self.floor.least:.3f}"

    def _kept_reason(self) -> str:
        assert self.kept is not None
        answer = self.kept.answer
        where = {"above": "at least", "below": "less than", "straddles": "perhaps less than"}
        return (
            f"{answer} of the baseline's on {_texts(self.kept.prompts)}, "
            f"{where[answer.side]} the {answer.least:.3f} to keep"
        )

    def _what_helps(self) -> str:
        kept = self.kept
        if kept is None or kept.answer.side != "straddles":
            return "a longer --timeout or more prompts would help"
        errors = kept.errors
        if errors["machine"] >= max(errors["texts"], errors["runs"]):
            return (
                f"plain decoding takes {kept.plain:.2f} times as long as in the baseline, so the "
                "machine is in another state: a quieter one or a new baseline would help"
            )
        if errors["texts"] >= errors["runs"]:
            return "a longer --timeout, more prompts or a quieter machine would help"
        return "a wider --tolerance would help: more time would not, because runs differ by this"


def _texts(count: int) -> str:
    return f"{count} text{'s' if count != 1 else ''}"


@dataclass(frozen=True, slots=True)
class SpeedRule:
    """What must be kept.

    Attributes:
        floor: the least speedup.
        of_other_texts: whether the floor was found on other texts, so that the spread between
            texts is an error of the speedup.
        baseline: texts of an earlier run; None where none are compared.
        tolerance: share of the baseline's speedup that may be lost.
    """

    floor: float
    of_other_texts: bool = False
    baseline: TextTimes | None = None
    tolerance: float = 0.0

    def look(self, now: TextTimes, look: int = 1, is_last: bool = True) -> Look:
        """Judge the timings up to now.

        Args:
            look: which one this is, from 1.
            is_last: whether nothing more will be timed, whatever this look says.
        """
        rate = error_rate(look, is_last)
        if self.of_other_texts:
            estimate = paired_texts.speedup_of_other_texts(now)
        else:
            estimate = paired_texts.mean_log_speedup(now)
        floor = Answer.of(estimate.plus_error(RUN_ERROR), self.floor, rate)
        kept = self._kept(now, rate)
        return Look(floor, kept, has_other_texts=kept is None and self.baseline is not None)

    def _kept(self, now: TextTimes, rate: float) -> Kept | None:
        if self.baseline is None:
            return None
        estimate = paired_texts.change(now, self.baseline, paired_texts.log_speedup)
        plain = paired_texts.change(now, self.baseline, paired_texts.log_plain)
        if estimate is None or plain is None:
            return None
        errors = {
            "texts": estimate.error,
            "runs": math.sqrt(2) * RUN_ERROR,
            "machine": STATE_SHARE * max(0.0, abs(plain.mean) - SAME_STATE),
        }
        whole = estimate.plus_error(math.hypot(errors["runs"], errors["machine"]))
        answer = Answer.of(whole, 1 - self.tolerance, rate)
        texts = len(now.keys() & self.baseline.keys())
        return Kept(answer, texts, math.exp(plain.mean), errors)
