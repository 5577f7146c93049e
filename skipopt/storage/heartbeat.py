"""Signs of life on a study: every worker counts its beats, and watches whether others' go on.

No clocks of two machines are compared: a watcher looks whether a count has changed, on its own
monotonic clock. Optuna's heartbeats do compare them, and a journal file has none.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

BEAT_SECONDS = 2.0
# Longer than the lock of a journal file is held by a worker that was killed while writing
# (storage.LOCK_SECONDS): the living ones cannot beat meanwhile.
SILENT_SECONDS = 15.0


class HeartbeatThread:
    """Calls `beat(1)` at once, then `beat(2)`, … from a thread, until it is stopped."""

    def __init__(self, beat: Callable[[int], None], seconds: float = BEAT_SECONDS) -> None:
        self._beat = beat
        self._seconds = seconds
        self._stopped = threading.Event()
        beat(1)
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def _go_on(self) -> None:
        for count in itertools.count(2):
            if self._stopped.wait(self._seconds):
                return
            try:
                self._beat(count)
            except Exception:
                # The worker's own reads and writes fail likewise, and say so to the user.
                continue

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


class StaleWorkerDetector:
    """Tells which workers have fallen silent.

    Args:
        seconds: how long a count may stand still.
    """

    def __init__(
        self,
        seconds: float = SILENT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[str, tuple[int | None, float]] = {}

    def silent(self, worker: str, count: int | None) -> bool:
        """Look at a worker's count; the first look at it is never enough."""
        now = self._clock()
        before, since = self._seen.get(worker, (None, now))
        if worker not in self._seen or count != before:
            self._seen[worker] = count, now
            return False
        return now - since > self._seconds
