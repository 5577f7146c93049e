"""What methods were compared on, and how often: alike for single texts and for batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from skipopt.errors import UsageError
from skipopt.measurement.runners import GREEDY

if TYPE_CHECKING:
    from skipopt.measurement.workload import Workload
    from skipopt.sampling import SamplingOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSetup:
    """Everything that is needed to measure a table again, but its methods."""

    environment: Mapping[str, Any]
    model: Mapping[str, Any]
    prompts_hash: str
    workload: Workload
    max_new_tokens: int
    repeats: int
    sampling: SamplingOptions = GREEDY

    def setup_json(self) -> dict[str, Any]:
        return {
            "environment": dict(self.environment),
            "model": dict(self.model),
            "prompts": {"hash": self.prompts_hash, **self.workload.to_json()},
            "max_new_tokens": self.max_new_tokens,
            "repeats": self.repeats,
            "sampling": asdict(self.sampling),
        }


def check_repeats(repeats: int) -> None:
    """Raise UsageError for fewer than one."""
    if repeats < 1:
        raise UsageError(f"repeats must be 1 or more, not {repeats}")
