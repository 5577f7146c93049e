"""A search's journal: its best trials as a table. Reads the file and never writes to it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from skipopt.errors import SearchError
from skipopt.masks import SkipMask
from skipopt.reporting.masks import mask_rows
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


def ranked(study: Study) -> list[Trial]:
    """Every trial, the best first."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        if trial.value is not None:
            facts = dict(trial.user_attrs)
            mask = SkipMask.parse(facts.pop("mask"), len(trial.params) // 2)
            found.append(Trial(mask, trial.value, facts))
    return sorted(found, key=lambda t: -t.value)


def best_trials(study: Study, top: int) -> dict[str, Any]:
    """The study's facts and its best trials, ready for JSON."""
    trials = ranked(study)
    best = [{"mask": str(t.mask), "value": t.value, **t.facts} for t in trials[:top]]
    return {"search": dict(study.user_attrs), "trials": len(trials), "best": best}


def study_table(study: Study, top: int) -> Table:
    """The best trials, each with the picture of its mask."""
    trials = ranked(study)
    objective = study.user_attrs.get("objective", "value")
    title = f"the best {min(top, len(trials))} of {len(trials)} trials"
    table = Table(title=title, show_lines=True)
    table.add_column(str(objective), justify="right")
    table.add_column("skipped", justify="right")
    table.add_column("mask")
    for trial in trials[:top]:
        picture = "\n".join((*mask_rows(trial.mask), str(trial.mask)))
        table.add_row(f"{trial.value:.4f}", str(len(trial.mask.skipped)), Text(picture))
    return table
