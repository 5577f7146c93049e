"""Peak memory of a command, with and without packed copies of weights."""

from __future__ import annotations

import pytest

from benchmarks import peak_memory


def test_peaks_are_compared_without_packed_copies() -> None:
    peak = peak_memory.Peak(resident=500, copies=120, runtime="prepacked")
    assert peak.without_copies == 380
    assert peak.to_json() == {"resident": 500, "copies": 120, "runtime": "prepacked"}


@pytest.mark.slow
def test_a_command_that_fails_has_no_peak() -> None:
    with pytest.raises(RuntimeError, match=r"no model folder at '\./nowhere'"):
        peak_memory.peak_of(["run", "./nowhere", "--prompt", "a"])
