"""Peak memory of a skipopt command, in a process of its own.

    python -m benchmarks.peak_memory run builtin --prompt "def f" -q

Prints one line of JSON on stderr, after what the command prints.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

STATUS = Path("/proc/self/status")
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Peak:
    """Memory in bytes.

    Attributes:
        resident: the most that the process held at any time.
        copies: the part of it that is further copies of weights: prepacked, fused, quantized.
        runtime: the one that ran.
    """

    resident: int
    copies: int
    runtime: str

    @property
    def without_copies(self) -> int:
        return self.resident - self.copies

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def peak_of(arguments: list[str]) -> Peak:
    """Run `skipopt ARGUMENTS` in a new process.

    Raises:
        RuntimeError: it failed; with the end of its stderr.
    """
    command = [sys.executable, "-m", "benchmarks.peak_memory", *arguments]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"skipopt {' '.join(arguments)}: {done.stderr.strip()[-500:]}")
    return Peak(**json.loads(done.stderr.splitlines()[-1]))


def max_resident() -> int:
    """Bytes of this process.

    Not from `getrusage` on Linux, whose value includes the parent's memory at the fork.
    """
    if STATUS.exists():
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> int:
    import skipopt.runtime.load as loading
    from skipopt.cli.app import main as skipopt

    load, loaded = loading.load, []

    def remember(*arguments: Any, **options: Any) -> Any:
        loaded.append(load(*arguments, **options))
        return loaded[-1]

    with patch.object(loading, "load", remember):
        code = skipopt(sys.argv[1:])
    if not code:
        (target,) = loaded
        memory = target.memory
        copies = memory.prepacked_weights + memory.fused_weights + memory.quantized_weights
        peak = Peak(max_resident(), copies, target.runtime.name)
        print(json.dumps(peak.to_json()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
