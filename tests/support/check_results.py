"""Results of `check` with invented figures."""

from __future__ import annotations

from typing import Any

from skipopt.measurement.lossless import LosslessReport
from skipopt.measurement.metrics import EndToEnd
from skipopt.measurement.regression_gate import CheckResult
from skipopt.measurement.speed_verdict import Verdict
from skipopt.measurement.threshold import Subject, Threshold
from skipopt.stats import Interval

MODEL = {"id": "/models/some-model", "fingerprint": "sha256:00ff"}


def check_result(verdict: Verdict = "pass", **fields: Any) -> CheckResult:
    """Speedups of 1.4 end to end and 1.5 of decoding, four exact texts."""
    values: dict[str, Any] = {
        "reason": "end-to-end speedup 1.400 (1.300 to 1.500): 100% seen,\nno more",
        "threshold": Threshold(1.1, "asked for"),
        "environment": {"device": "cpu", "dtype": "float32", "threads": 2},
        "subject": Subject(MODEL, "sha256:aa", 4, 64),
        "speedup": Interval(1.5, 1.4, 1.6),
        "end_to_end": EndToEnd(Interval(1.4, 1.3, 1.5)),
        "first_text": EndToEnd(Interval(1.2, 1.1, 1.3)),
        "lossless": LosslessReport(4, 0, 0),
        "acceptance_rate": 0.75,
        **fields,
    }
    return CheckResult(verdict, **values)
