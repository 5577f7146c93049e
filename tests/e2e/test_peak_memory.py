"""Decoding with a profile needs no second copy of the weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skipopt.files import write_atomically

ROOT = Path(__file__).parents[2]
# Both processes prepack the same layers: measured kernel times may differ between them.
CHILD = """
import runpy, sys
from support.kernel_timings import packed_is_faster
from skipopt.kernels import packed_linear
packed_linear.measure_seconds = packed_is_faster
runpy.run_module("benchmarks.peak_memory", run_name="__main__", alter_sys=False)
"""
SHARE = 0.05


def peak(*arguments: object) -> dict[str, int]:
    """Bytes of the process at its peak (`resident`) and of weight copies by the runtime
    (`copies`).
    """
    command = [sys.executable, "-c", CHILD, *arguments]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [str(part) for part in command],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stderr.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_profile_takes_no_more_memory_than_plain_decoding(tmp_path: Path) -> None:
    """A second copy of the built-in model's 44 MB is more than 5 % of the whole."""
    prompt = tmp_path / "prompt.txt"
    write_atomically(prompt, "def main(argv):\n")
    common = ("run", "builtin", "--prompt-file", prompt, "--max-new-tokens", 24, "--threads", 1)
    common += ("--runtime", "prepacked", "-q", "--no-progress")
    profile = "builtin"
    plain = peak(*common, "--method", "plain")
    drafting = peak(*common, "--profile", profile, "--method", "layer-skip")
    assert drafting["copies"] == plain["copies"]
    assert plain["copies"] > 0
    assert drafting["resident"] <= (1 + SHARE) * plain["resident"]
