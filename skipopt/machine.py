"""What this process may use of the machine: processor cores and memory. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
# Limit and usage of the control group that a container runs in: version 2, then version 1.
MEMORY_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def usable_cores() -> int:
    """Logical processor cores that this process may run on; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes that processes may still allocate; None where that is unknown (not on Linux)."""
    free = _kilobytes(PROC / "meminfo", "MemAvailable")
    within_limit = [
        limit - used
        for files in MEMORY_LIMITS
        for limit, used in [tuple(map(_number, files))]
        if limit is not None and used is not None
    ]
    return None if free is None else max(0, min([free, *within_limit]))


def own_memory() -> int | None:
    """Bytes of this process that no other process shares; None where that is unknown."""
    return _kilobytes(PROC / "self" / "status", "RssAnon")


def _kilobytes(path: Path, key: str) -> int | None:
    """The bytes in a line such as `RssAnon:  1024 kB`."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return 1024 * int(found[0]) if found else None


def _number(path: str) -> int | None:
    """The number in a file; None where there is no file, or the word `max`."""
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None
