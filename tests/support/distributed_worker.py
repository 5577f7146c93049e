"""A worker on a shared study whose scores cost nothing; a script for tests that kill it.

python distributed_worker.py STORAGE STUDY SECONDS: scores every mask of a small space, each in
SECONDS seconds. Prints `at MASK` before each one.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from random import Random

from skipopt.masks import SkipMask
from skipopt.storage.base import Trial
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.study_key import StudyIdentity, StudyLocation

LAYERS = 2
IDENTITY = StudyIdentity(LAYERS, model="sha256:0", prompts="sha256:1", objective="speed")
MASKS = [
    SkipMask.from_bits([n >> i & 1 for i in range(2 * LAYERS)]) for n in range(2 ** (2 * LAYERS))
]


def locate(storage: str, name: str) -> StudyLocation:
    return StudyLocation(storage, name, IDENTITY, shared=True)


def value_of(mask: SkipMask) -> float:
    return len(mask.skipped) / 4


def score_all(storage: str, name: str, seconds: float) -> None:
    with closing(OptunaStorage(locate(storage, name))) as trials:
        finished = {trial.mask for trial in trials.trials()}
        for mask in Random(trials.rank).sample(MASKS, len(MASKS)):
            finished.update(trial.mask for trial in trials.new_trials())
            if mask not in finished and trials.claim([mask]):
                print(f"at {mask}", flush=True)
                time.sleep(seconds)
                trials.append(Trial(mask, value_of(mask)))


if __name__ == "__main__":
    score_all(sys.argv[1], sys.argv[2], float(sys.argv[3]))
