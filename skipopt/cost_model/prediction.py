"""`Prediction`: the predicted speedup of a mask. Importing it does not load torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log
from statistics import fmean, median, stdev
from typing import Any


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is predicted for decoding with one mask, at its best γ and τ.

    Attributes:
        speedup: seconds of plain decoding ÷ seconds with drafts, summed over all texts.
        per_text_speedups: the speedup on each text.
        gamma: most tokens drafted per round.
        tau: draft confidence threshold.
        acceptance_rate: accepted ÷ drafted tokens.
        matchness: share of positions at which the draft's most likely token is the target's.
        mean_acceptance_length: tokens per round, the target's own included; None in trials that
            were stored without it.
    """

    speedup: float
    per_text_speedups: tuple[float, ...]
    gamma: int
    tau: float
    acceptance_rate: float
    matchness: float
    mean_acceptance_length: float | None = None

    @property
    def round_cost(self) -> float | None:
        """Seconds of a mean round, in plain steps."""
        length = self.mean_acceptance_length
        return None if length is None else length / self.speedup

    @property
    def median_speedup(self) -> float:
        """Median over texts, comparable with the measured speedup (a median over prompts)."""
        return median(self.per_text_speedups)

    @property
    def log_speedup(self) -> float:
        """Mean over texts of the logarithm of the speedup."""
        return fmean(map(log, self.per_text_speedups))

    @property
    def log_speedup_error(self) -> float:
        """Standard error of `log_speedup`; 0 with a single text."""
        logs = [log(each) for each in self.per_text_speedups]
        return stdev(logs) / len(logs) ** 0.5 if len(logs) > 1 else 0.0

    def may_reach(self, speedup: float) -> bool:
        """Whether one standard error more would be above this speedup."""
        return self.log_speedup + self.log_speedup_error > log(speedup)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Prediction:
        """Inverse of `to_json`; tuples may be lists, as after a round trip through JSON."""
        return cls(**{**data, "per_text_speedups": tuple(data["per_text_speedups"])})
