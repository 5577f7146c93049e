"""A search's journal: its best trials as a table, all of them as a figure.

Reads the file and never writes to it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from skipopt.errors import SearchError
from skipopt.masks import SkipMask
from skipopt.reporting.masks import mask_rows
from skipopt.reporting.report import Report, Sheet
from skipopt.searching.journal import STUDY_NAME, Trial

if TYPE_CHECKING:
    from optuna import Study


def load_study(path: Path) -> Study:
    """The study in a journal.

    Raises:
        SearchError: it is not the journal of a search, or holds no trial yet.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            storage = JournalStorage(JournalFileBackend(str(path)))
            study = optuna.load_study(study_name=STUDY_NAME, storage=storage)
        except (ValueError, KeyError, TypeError, AssertionError):
            raise SearchError(
                f"{path} is not a search journal", hint="`skipopt search` writes them"
            ) from None
    if not study.get_trials(deepcopy=False):
        raise SearchError(f"{path} holds no trial yet", hint="`skipopt search --resume` goes on")
    return study


def finished(study: Study) -> list[Trial]:
    """Every trial, the oldest first."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        if trial.value is not None:
            facts = dict(trial.user_attrs)
            mask = SkipMask.parse(facts.pop("mask"), len(trial.params) // 2)
            found.append(Trial(mask, trial.value, facts))
    return found


def ranked(study: Study) -> list[Trial]:
    """Every trial, the best first."""
    return sorted(finished(study), key=lambda t: -t.value)


def best_trials(study: Study, top: int) -> dict[str, Any]:
    """The study's facts and its best trials, ready for JSON."""
    trials = ranked(study)
    best = [{"mask": str(t.mask), "value": t.value, **t.facts} for t in trials[:top]]
    return {"search": dict(study.user_attrs), "trials": len(trials), "best": best}


def study_table(study: Study, top: int) -> Table:
    """The best trials, each with the picture of its mask."""
    sheet = study_sheet(study, top)
    table = Table(title=_title(study, top), show_lines=True)
    for number, column in enumerate(sheet.columns):
        table.add_column(column, justify="left" if number in sheet.words else "right")
    for row in sheet.rows:
        table.add_row(*map(Text, row))
    return table


def study_report(study: Study, top: int) -> Report:
    """The same with a figure of all trials."""
    from skipopt.reporting.pictures import draw_trials

    trials = finished(study)
    told = f"the values of {len(trials)} trials in their order; the best are in the table"
    return Report(
        f"Search: {_title(study, top)}",
        lambda: draw_trials(trials, _objective(study)),
        told,
        study_sheet(study, top),
    )


def study_sheet(study: Study, top: int) -> Sheet:
    rows = []
    for trial in ranked(study)[:top]:
        picture = "\n".join((*mask_rows(trial.mask), str(trial.mask)))
        rows.append((f"{trial.value:.4f}", str(len(trial.mask.skipped)), picture))
    return Sheet((_objective(study), "skipped", "mask"), tuple(rows), frozenset((2,)))


def _objective(study: Study) -> str:
    return str(study.user_attrs.get("objective", "value"))


def _title(study: Study, top: int) -> str:
    count = len(finished(study))
    return f"the best {min(top, count)} of {count} trials"
