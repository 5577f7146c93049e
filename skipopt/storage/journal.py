"""Trials on disk at once: an Optuna journal, one study a search.

A torn last line (after `kill -9` or a full disk) is cut off; at most the trial in flight is
lost. Knows nothing of models or of how a mask was scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from skipopt.errors import OutputError, SearchError
from skipopt.masks import SkipMask, sublayer_name
from skipopt.storage.base import SingleWorkerStorage, Trial

__all__ = ["STUDY_NAME", "Journal", "Trial"]

STUDY_NAME = "skipopt"


class Journal(SingleWorkerStorage):
    """Appends trials to a file; with `resume`, reads what is there first.

    Args:
        path: the file.
        facts: what this search is (model, prompts, objective, …): a journal with other facts
            belongs to another search.

    Raises:
        SearchError: the file is another search's, or exists and `resume` is False.
        OutputError: the file cannot be read or written.
    """

    def __init__(
        self, path: Path, layers: int, facts: Mapping[str, Any], resume: bool = False
    ) -> None:
        if path.exists() and not resume:
            raise SearchError(
                f"{path} holds an earlier search",
                hint="go on with --resume, or delete the file to start anew",
            )
        self.path = path
        self.layers = layers
        self._study = _open_study(path)
        check_facts(self._study, facts, str(path))

    def trials(self) -> list[Trial]:
        """Every finished trial, oldest first; the first of each mask."""
        found: dict[SkipMask, Trial] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.value is not None:
                read = Trial.from_json({**trial.user_attrs, "value": trial.value}, self.layers)
                found.setdefault(read.mask, read)
        return list(found.values())

    def append(self, trial: Trial) -> None:
        """Write one trial to disk before returning."""
        import optuna

        written = trial.to_json()
        frozen = optuna.trial.create_trial(
            **parameters(trial.mask), value=written.pop("value"), user_attrs=written
        )
        try:
            self._study.add_trial(frozen)
        except OSError as error:
            raise OutputError(
                f"cannot write the journal {self.path}: {error.strerror or error}",
                hint="free some space, then go on with --resume",
            ) from None


def check_facts(study: Any, facts: Mapping[str, Any], place: str) -> None:
    """Note on a new study what search it is.

    Raises:
        SearchError: it is another one.
    """
    # In this order: another worker notes all facts before its first trial.
    begun = bool(study.get_trials(deepcopy=False))
    known = study.user_attrs
    for key, value in facts.items():
        if key not in known and not begun:  # new, or killed while its facts were written
            study.set_user_attr(key, value)
        elif known.get(key) != value:
            raise SearchError(
                f"{place} is the journal of another search: its {key} is "
                f"{known.get(key)!r}, not {value!r}",
                hint="give another --output, or delete the journal",
            )


def parameters(mask: SkipMask) -> dict[str, Any]:
    """The bits of a mask as Optuna shows them: `params` and `distributions` of a trial."""
    import optuna

    names = [sublayer_name(i) for i in range(len(mask.bits))]
    one = optuna.distributions.IntDistribution(0, 1)
    return {
        "params": dict(zip(names, mask.bits, strict=True)),
        "distributions": dict.fromkeys(names, one),
    }


def open_study(storage: Any, name: str) -> Any:
    """The study of that name, created where there is none yet."""
    import optuna

    if name not in optuna.get_all_study_names(storage):
        with suppress(optuna.exceptions.DuplicatedStudyError):  # another worker was faster
            storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], name)
    return optuna.load_study(study_name=name, storage=storage)


def _open_study(path: Path) -> Any:
    from skipopt.storage.backends import open_file

    try:
        return open_study(open_file(path), STUDY_NAME)
    except OSError as error:
        raise OutputError(
            f"cannot open the journal {path}: {error.strerror or error}",
            hint="choose an --output in a folder you may write to",
        ) from None
