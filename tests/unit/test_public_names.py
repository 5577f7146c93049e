"""What `import skipopt` offers, and that it stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.command_line import SUBPROCESS

import skipopt


def test_every_public_name_is_there_and_callable() -> None:
    assert all(callable(getattr(skipopt, name)) for name in skipopt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = skipopt.magic


@pytest.mark.parametrize("line", ["import skipopt.bench.timing", "pass"])
def test_bench_is_the_function_whatever_was_imported_before(line: str) -> None:
    """Its package has the same name."""
    code = (
        f"{line}\nimport skipopt, sys\nassert callable(skipopt.bench)\n"
        "import skipopt.cli.app\nassert 'torch' not in sys.modules\nassert callable(skipopt.bench)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=SUBPROCESS)
