"""What `skipopt search` shows while it searches, and what it leaves behind where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipopt.cli.progress import Display
    from skipopt.masks import SkipMask
    from skipopt.study.progress import Progress


class SearchProgress:
    """Shows where a search is, with the best mask so far; knows whether it came to any trial."""

    def __init__(self, display: Display, objective: str) -> None:
        self._display = display
        self._objective = objective
        self.trials = 0

    def __call__(self, progress: Progress) -> None:
        self.trials = progress.trials
        mask = progress.best_mask
        line = progress_line(progress, self._objective)
        picture = None if mask is None else partial(_picture, mask)
        self._display.show(progress.phase, line, picture)


@contextmanager
def keeping(journal: Path | None, watcher: SearchProgress) -> Iterator[SearchProgress]:
    """Leaves no journal behind that a failed search opened and wrote no trial to."""
    existed = journal is None or journal.exists()
    try:
        yield watcher
    except BaseException:
        if journal is not None and not existed and not watcher.trials:
            journal.unlink(missing_ok=True)
        raise


def progress_line(progress: Progress, objective: str) -> str:
    """`120 trials · best 1.38× · 22 s left`."""
    from skipopt.cli.progress import duration

    parts = [f"{progress.trials} trials"]
    if progress.best_value is not None:
        best = f"{progress.best_value:.3f}"
        parts.append(f"best predicted {best}×" if objective == "speed" else f"matchness {best}")
    if progress.seconds_left is None:
        parts.append(f"{duration(progress.seconds)} spent")
    else:
        parts.append(f"{duration(progress.seconds_left)} left")
    return " · ".join(parts)


def _picture(mask: SkipMask) -> str:
    from skipopt.reporting.masks import mask_rows

    return "\n".join(mask_rows(mask))
