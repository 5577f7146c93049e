"""Progress of `skipopt search`, and clean-up after a search that fails."""

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
    """Shows the phase of a search and its best mask so far."""

    def __init__(self, display: Display, objective: str) -> None:
        self._display = display
        self._objective = objective

    def __call__(self, progress: Progress) -> None:
        mask = progress.best_mask
        line = progress_line(progress, self._objective)
        self._display.show(
            progress.phase, line, None if mask is None else partial(_mask_text, mask)
        )


@contextmanager
def remove_empty_journal(journal: Path | None) -> Iterator[None]:
    """Delete the journal of a search that fails before any trial of any worker."""
    from skipopt.storage.journal import is_unused

    try:
        yield
    except BaseException:
        if journal is not None and is_unused(journal):
            journal.unlink(missing_ok=True)
        raise


def progress_line(progress: Progress, objective: str) -> str:
    """`120 trials · best predicted 1.380× · 22 s left`."""
    from skipopt.cli.progress import duration

    parts = [f"{progress.trials} trials"]
    if progress.best_value is not None:
        best = f"{progress.best_value:.3f}"
        parts.append(f"best predicted {best}×" if objective == "speed" else f"matchness {best}")
    if progress.seconds_left is None:
        parts.append(f"{duration(progress.seconds)} elapsed")
    else:
        parts.append(f"{duration(progress.seconds_left)} left")
    return " · ".join(parts)


def _mask_text(mask: SkipMask) -> str:
    from skipopt.reporting.masks import mask_rows

    return "\n".join(mask_rows(mask))
