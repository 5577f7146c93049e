"""A worker on a shared study whose scores cost nothing; run as a script by tests that kill it.

python shared_worker.py SPEC NAME SECONDS: each trial takes so long. Says `at MASK` for every mask
that it begins to score.
"""

from __future__ import annotations

import sys
import time
from random import Random
from typing import Any

from skipopt.masks import SkipMask
from skipopt.storage.base import Trial
from skipopt.storage.shared import SharedStorage

LAYERS = 2
FACTS: dict[str, Any] = {"model": "sha256:0", "objective": "speed", "skip_ratio": None}
MASKS = [
    SkipMask.from_bits([n >> i & 1 for i in range(2 * LAYERS)]) for n in range(2 ** (2 * LAYERS))
]
SILENCE = 3.0


def value_of(mask: SkipMask) -> float:
    return len(mask.skipped) / 4


def work(spec: str, name: str, seconds: float) -> None:
    book = SharedStorage(spec, name, LAYERS, FACTS, beat=0.2, silence=SILENCE)
    left = Random(book.rank).sample(MASKS, len(MASKS))
    while left or book.others_at_work():
        found = book.abandoned() or book.claim([left.pop() for _ in left[:3]])
        for mask in found:
            print(f"at {mask}", flush=True)
            time.sleep(seconds)
            book.append(Trial(mask, value_of(mask), worker=book.worker))
        if not found:
            time.sleep(0.05)
    book.close()


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], float(sys.argv[3]))
