"""What the repository holds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_BYTES = 4 << 20
WEIGHTS = {"skipopt/data/builtin/model.safetensors"}  # the only pretrained weights


def tracked_files() -> list[str]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return done.stdout.decode().strip("\0").split("\0")


def test_no_large_file_is_tracked_but_the_built_in_weights() -> None:
    existing = [name for name in tracked_files() if (ROOT / name).is_file()]
    large = {name for name in existing if (ROOT / name).stat().st_size > MOST_BYTES}
    assert large <= WEIGHTS


def test_no_model_file_of_others_is_tracked() -> None:
    assert not [name for name in tracked_files() if name.endswith((".gguf", ".whl", ".bin"))]
