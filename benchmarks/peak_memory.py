"""Peak memory of a command of skipopt's, in a process of its own.

    python -m benchmarks.peak_memory run builtin --prompt "def f" -q

Prints one line of JSON on stderr. Knows nothing of what the command does.
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

STATUS = Path("/proc/self/status")
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes.

    Attributes:
        resident: most memory that the process held at any time.
        copies: of it, further copies of weights: prepacked, fused, quantized.
        runtime: that ran.
    """

    resident: int
    copies: int
    runtime: str

    @property
    def own(self) -> int:
        """Without the copies."""
        return self.resident - self.copies

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def peak_of(arguments: list[str]) -> Peak:
    """Run `skipopt …` in a fresh process.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    command = [sys.executable, "-m", "benchmarks.peak_memory", *arguments]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"skipopt {' '.join(arguments)}: {done.stderr.strip()[-500:]}")
    return Peak(**json.loads(done.stderr.splitlines()[-1]))


def most_resident() -> int:
    """Of this process, in bytes.

    On Linux not from `getrusage`: what it tells includes the parent as it was when it forked.
    """
    if STATUS.exists():
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> int:
    from skipopt.cli import loading
    from skipopt.cli.app import main as skipopt

    load, loaded = loading.load_target, []

    def remember(*arguments: Any, **options: Any) -> Any:
        loaded.append(load(*arguments, **options))
        return loaded[-1]

    loading.load_target = remember
    code = skipopt(sys.argv[1:])
    if not code:
        target = loaded[-1]
        held = target.memory
        copies = held.prepacked_weights + held.fused_weights + held.quantized_weights
        peak = Peak(most_resident(), copies, target.runtime.name)
        print(json.dumps(peak.to_json()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
