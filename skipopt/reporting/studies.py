"""A stored search: its best trials as a table, all trials as a figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipopt.errors import SearchError
from skipopt.reporting.masks import mask_rows
from skipopt.reporting.report import Report, TableData
from skipopt.reporting.terminal_table import TerminalTable
from skipopt.storage.base import Trial
from skipopt.storage.study_key import StudyIdentity
from skipopt.storage.workers import DEFAULT_STUDY


@dataclass(frozen=True, slots=True)
class Study:
    """A search as it was stored: what it was, and its finished trials, the oldest first."""

    identity: StudyIdentity
    trials: tuple[Trial, ...]

    @property
    def ranked(self) -> list[Trial]:
        """Trials by value, the best first."""
        return sorted(self.trials, key=lambda t: -t.value)

    @property
    def objective(self) -> str:
        return self.identity.objective


def load_study(storage: str, name: str = DEFAULT_STUDY) -> Study:
    """Read a study; nothing is written.

    Args:
        storage: a journal file, or the URL of a database.
        name: as given to `search --study`, or with its digest.

    Raises:
        SearchError: the storage cannot be reached, there is no such study or several of that
            name, or no trial yet.
        UsageError: a storage that cannot be shared, or its driver is not installed.
    """
    import optuna

    from skipopt.storage.backends import (
        is_journal_file,
        open_storage,
        redacted_url,
        translate_errors,
    )
    from skipopt.storage.optuna_storage import read_identity, read_trials
    from skipopt.storage.study_key import find_study_name

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if is_journal_file(storage) and not Path(storage).is_file():  # opening would create it
        raise SearchError(f"there is no journal {storage!r}", hint="check the path")
    opened = open_storage(storage)
    with translate_errors(storage):
        full_name = find_study_name(opened, storage, name)
        study = optuna.load_study(study_name=full_name, storage=opened)
        identity = read_identity(study)
        trials = read_trials(study, identity.layers)
    if not trials:
        raise SearchError(
            f"study {full_name!r} on {redacted_url(storage)} holds no trial yet",
            hint="`skipopt search --resume` goes on",
        )
    return Study(identity, tuple(trials))


def best_trials(study: Study, top: int) -> dict[str, Any]:
    """What search it is and its best trials, ready for JSON."""
    best = [trial.to_json() for trial in study.ranked[:top]]
    return {"search": study.identity.to_json(), "trials": len(study.trials), "best": best}


def study_table(study: Study, top: int) -> TerminalTable:
    """The best trials, each with its mask drawn."""
    return TerminalTable(study_table_data(study, top), _title(study, top), show_lines=True)


def study_report(study: Study, top: int) -> Report:
    """The best trials as a report, with figures of all trials."""
    from skipopt.reporting.study_figures import study_figures

    pictures = study_figures(study.trials, study.objective)
    return Report(f"Search: {_title(study, top)}", pictures, study_table_data(study, top))


def study_table_data(study: Study, top: int) -> TableData:
    rows = []
    for trial in study.ranked[:top]:
        picture = "\n".join((*mask_rows(trial.mask), str(trial.mask)))
        rows.append((f"{trial.value:.4f}", str(len(trial.mask.skipped)), picture))
    return TableData((study.objective, "skipped", "mask"), tuple(rows), frozenset((2,)))


def _title(study: Study, top: int) -> str:
    count = len(study.trials)
    return f"the best {min(top, count)} of {count} trials"
