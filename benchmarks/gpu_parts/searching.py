"""The part `search`: a profile for the session's model, on prompts from its training files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import skipopt
from benchmarks.gpu_parts.session import Session
from benchmarks.gpu_parts.sources import make_prompts
from benchmarks.gpu_parts.targets import fastest, load_eager, under_runtimes

if TYPE_CHECKING:
    from skipopt.study.progress import Progress

SAMPLER = "auto"
MIN_SECONDS = 2.0
SHARE_FOR_ENDING = 0.15  # of the time, because a search ends a little after its timeout


def search(session: Session) -> Iterator[dict[str, Any]]:
    """Yields the profile, which is also saved in the session's folder."""
    prompts = make_prompts(session.sizes.calibration, session.sizes.held_out)
    targets, absent = under_runtimes(load_eager(session))
    runtime = fastest(targets)
    session.say(f"searching under {runtime}")
    began = time.monotonic()
    timeout = max(MIN_SECONDS, session.left() * (1 - SHARE_FOR_ENDING))
    found = skipopt.search(
        targets[runtime],
        prompts,
        sampler=SAMPLER,
        timeout=timeout,
        on_progress=_Phases(session.say),
    )
    found.save(session.profile_path)
    yield {
        "runtime": runtime,
        "runtimes_absent": absent,
        "seconds": time.monotonic() - began,
        "calibration_prompts": len(prompts.calibration),
        "profile": found.as_dict(),
        "mask": str(found.skip_mask),
    }


class _Phases:
    """Prints one line for each phase of a search."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._phase = ""

    def __call__(self, progress: Progress) -> None:
        if progress.phase != self._phase:
            self._phase = progress.phase
            self._say(f"{progress.phase}: {progress.trials} trials, {progress.seconds:.0f} s")
