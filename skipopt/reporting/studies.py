"""A search as it was kept: its best trials as a table, all of them as a figure.

Reads the trials and never writes any.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from skipopt.errors import SearchError
from skipopt.reporting.masks import mask_rows
from skipopt.reporting.report import Report, TableData
from skipopt.storage.base import Trial
from skipopt.storage.journal import STUDY_NAME

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, slots=True)
class Study:
    """A search as it was kept: what it was, and its finished trials, the oldest first."""

    facts: dict[str, Any]
    trials: tuple[Trial, ...]

    @property
    def ranked(self) -> list[Trial]:
        """The best first."""
        return sorted(self.trials, key=lambda t: -t.value)

    @property
    def objective(self) -> str:
        return str(self.facts.get("objective", "value"))


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
            return _read(optuna.load_study(study_name=STUDY_NAME, storage=storage), str(path))
        except (ValueError, KeyError, TypeError, AssertionError):
            raise SearchError(
                f"{path} is not a search journal",
                hint="`skipopt search` writes them; --storage and --study show a shared one",
            ) from None


def load_shared_study(spec: str, name: str) -> Study:
    """A study that workers share.

    Args:
        spec: a journal file, or the URL of a database (see `searching.storage`).
        name: as given to `search --study`, or whole, as it stands there.

    Raises:
        SearchError: not to be reached, no such study, several parts of it, or no trial yet.
        UsageError: a storage that cannot be shared, or its driver is not installed.
    """
    import optuna

    from skipopt.storage.backends import is_file, open_storage, place_of, translate_errors
    from skipopt.storage.shared import kept_layers
    from skipopt.storage.study_key import find_part

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if is_file(spec) and not Path(spec).is_file():  # it would be made
        raise SearchError(f"there is no journal {spec!r}", hint="check the path")
    storage = open_storage(spec)
    with translate_errors(spec):
        whole = find_part(storage, spec, name)
        found = optuna.load_study(study_name=whole, storage=storage)
        place = f"study {whole!r} on {place_of(spec)}"
        return _read(found, place, kept_layers(storage, whole))


def _read(study: optuna.Study, place: str, layers: int | None = None) -> Study:
    """`layers`: of the model, where trials do not tell by their parameters."""
    rows = study.get_trials(deepcopy=False)
    if not rows:
        raise SearchError(f"{place} holds no trial yet", hint="`skipopt search --resume` goes on")
    trials = []
    for row in rows:
        if row.value is not None:
            written = {**row.user_attrs, "value": row.value}
            trials.append(Trial.from_json(written, layers or len(row.params) // 2))
    return Study(dict(study.user_attrs), tuple(trials))


def best_trials(study: Study, top: int) -> dict[str, Any]:
    """The study's facts and its best trials, ready for JSON."""
    best = [trial.to_json() for trial in study.ranked[:top]]
    return {"search": study.facts, "trials": len(study.trials), "best": best}


def study_table(study: Study, top: int) -> Table:
    """The best trials, each with the picture of its mask."""
    sheet = study_table_data(study, top)
    table = Table(title=_title(study, top), show_lines=True)
    for number, column in enumerate(sheet.columns):
        table.add_column(column, justify="left" if number in sheet.words else "right")
    for row in sheet.rows:
        table.add_row(*map(Text, row))
    return table


def study_report(study: Study, top: int) -> Report:
    """The same with a figure of all trials."""
    from skipopt.reporting.plots import draw_trials

    trials = study.trials
    told = f"the values of {len(trials)} trials in their order; the best are in the table"
    return Report(
        f"Search: {_title(study, top)}",
        lambda: draw_trials(trials, study.objective),
        told,
        study_table_data(study, top),
    )


def study_table_data(study: Study, top: int) -> TableData:
    rows = []
    for trial in study.ranked[:top]:
        picture = "\n".join((*mask_rows(trial.mask), str(trial.mask)))
        rows.append((f"{trial.value:.4f}", str(len(trial.mask.skipped)), picture))
    return TableData((study.objective, "skipped", "mask"), tuple(rows), frozenset((2,)))


def _title(study: Study, top: int) -> str:
    count = len(study.trials)
    return f"the best {min(top, count)} of {count} trials"
