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
    from skipopt.reporting.lines import LabeledLines
    from skipopt.study.progress import Progress
    from skipopt.study.time_plan import Phase


class SearchProgress:
    """Shows the phase of a search and its best mask so far."""

    def __init__(self, display: Display, objective: str) -> None:
        self._display = display
        self._objective = objective

    def __call__(self, progress: Progress) -> None:
        mask = progress.best_mask
        line = progress_line(progress, self._objective)
        details = None if mask is None or not mask.skipped else partial(_mask_lines, mask)
        self._display.show(phase_heading(progress.phase), line, details)


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


def phase_heading(phase: Phase) -> str:
    """`2/4 costs`."""
    from skipopt.study.time_plan import NAMES, PHASES

    return f"{PHASES.index(phase) + 1}/{len(PHASES)} {NAMES[phase]}"


def progress_line(progress: Progress, objective: str) -> str:
    """`120 trials · best predicted 1.380× · 22 s left`."""
    from skipopt.cli.progress import duration

    parts = [f"{progress.trials} trial{'s' if progress.trials != 1 else ''}"]
    if progress.best_value is not None:
        best = f"{progress.best_value:.3f}"
        parts.append(f"best predicted {best}×" if objective == "speed" else f"matchness {best}")
    if progress.seconds_left is None:
        parts.append(f"{duration(progress.seconds)} elapsed")
    elif progress.seconds_left < 1:
        parts.append("about to end")
    else:
        parts.append(f"{duration(progress.seconds_left)} left")
    return " · ".join(parts)


def _mask_lines(mask: SkipMask) -> LabeledLines:
    from skipopt.reporting.lines import LabeledLines, Line
    from skipopt.reporting.masks import LEGEND

    return LabeledLines((Line("best mask", mask=mask), Line("", LEGEND)))
