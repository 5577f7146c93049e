"""The threads of torch do not spin for long where they wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from skipopt.__main__ import SPINS

COMMAND = (sys.executable, "-m", "skipopt", "run", "builtin", "--prompt", "x", "-n", "2")


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP is torch's on Linux")
@pytest.mark.parametrize(
    ("own", "spins"),
    [
        ({}, SPINS),
        ({"GOMP_SPINCOUNT": "77"}, "77"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"),
    ],
)
def test_openmp_spins_briefly_unless_told_otherwise(own: dict[str, str], spins: str) -> None:
    asked = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    others = {name: value for name, value in os.environ.items() if name not in asked}
    told = subprocess.run(
        COMMAND,
        env={**others, "OMP_DISPLAY_ENV": "verbose", **own},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stderr
    if "GOMP_SPINCOUNT" not in told:
        pytest.skip("torch has another OpenMP")
    assert f"GOMP_SPINCOUNT = '{spins}'" in told
