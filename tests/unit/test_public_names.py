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


def test_the_command_line_is_imported_without_torch() -> None:
    code = "import sys, skipopt.cli.app; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=SUBPROCESS)
