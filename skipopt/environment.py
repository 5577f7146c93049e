"""What a measurement was made on: versions, device, commit. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

COMMAND_TIMEOUT = 10.0  # seconds for git and the like


def environment_record(device: str, dtype: str, runtime: str, threads: int) -> dict[str, Any]:
    """Everything that may change a measured speed, ready for JSON or YAML.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, `mps`, …; recorded as the hardware's name.
        dtype: of the weights, e.g. `float32`.
        runtime: name of the runtime, e.g. `eager`.
        threads: CPU threads it may use.

    Returns:
        The values by key; None for a package that is not installed, and for `commit` and `dirty`
        outside a git checkout of skipopt.
    """
    commit, dirty = checkout_state(Path(__file__).parent)
    return {
        "skipopt": package_version("skipopt"),
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": package_version("torch"),
        "transformers": package_version("transformers"),
        "device": device_name(device),
        "dtype": dtype,
        "runtime": runtime,
        "threads": threads,
    }


def package_version(name: str) -> str | None:
    """The installed version, without importing the package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def device_name(device: str) -> str:
    """The name of the hardware behind a torch device: a GPU's, or else the processor's."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    name = processor_name()
    return name if device == "cpu" else f"{name} ({device})"


# Flags of x86 processors in /proc/cpuinfo, the widest first, and what tables call them.
VECTOR_SETS = {"avx512f": "AVX-512", "avx2": "AVX2", "sse2": "SSE2"}


def processor_name() -> str:
    """The model name of the CPU with its widest vector instructions, else its architecture.

    Virtual machines give processors of several generations one name, such as `AMD EPYC`.
    """
    values: dict[str, str] = {}
    for line in _processor_lines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), " ".join(value.split()))
    if name := values.get("model name"):
        flags = values.get("flags", "").split()
        vectors = next((said for flag, said in VECTOR_SETS.items() if flag in flags), None)
        return f"{name}, {vectors}" if vectors else name
    brand = _answer(["sysctl", "-n", "machdep.cpu.brand_string"], Path.cwd())
    return brand or platform.processor() or platform.machine() or "unknown"


def _processor_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return []


def checkout_state(folder: Path) -> tuple[str | None, bool | None]:
    """The commit, and whether `folder` differs from it; (None, None) if git does not track it.

    A package installed inside another repository is not tracked there, so that repository's
    commit is not taken for this project's.
    """
    if not _git(folder, "ls-files", "."):
        return None, None
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--", ".")
    return (commit, None if changes is None else changes != "") if commit else (None, None)


def _git(folder: Path, *arguments: str) -> str | None:
    # No optional locks, which could disturb other git processes.
    return _answer(["git", "--no-optional-locks", *arguments], folder)


def _answer(command: list[str], folder: Path) -> str | None:
    """The output of a command; None if it is missing, fails or takes too long."""
    # Inside a git hook, GIT_DIR and the like name the repository of the hook.
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
