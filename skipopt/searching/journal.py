"""Trials on disk at once: an Optuna journal, one study a search.

A torn last line (after `kill -9` or a full disk) is cut off; at most the trial in flight is
lost. Knows nothing of models or of how a mask was scored.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipopt.errors import OutputError, SearchError
from skipopt.masks import SkipMask, sublayer_name

STUDY_NAME = "skipopt"
EVERY_LINE = b'{"op_code":'  # begins so, in an Optuna journal


@dataclass(frozen=True, slots=True)
class Trial:
    """One scored mask: the value the sampler was told, and what else is known of it."""

    mask: SkipMask
    value: float
    facts: dict[str, Any]


class Journal:
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
        self._check(dict(facts))

    def _check(self, facts: dict[str, Any]) -> None:
        known = self._study.user_attrs
        begun = bool(self._study.get_trials(deepcopy=False))
        for key, value in facts.items():
            if key not in known and not begun:  # new, or killed while its facts were written
                self._study.set_user_attr(key, value)
            elif known.get(key) != value:
                raise SearchError(
                    f"{self.path} is the journal of another search: its {key} is "
                    f"{known.get(key)!r}, not {value!r}",
                    hint="give another --output, or delete the journal",
                )

    def trials(self) -> list[Trial]:
        """Every finished trial, oldest first."""
        found = []
        for trial in self._study.get_trials(deepcopy=False):
            if trial.value is not None:
                facts = dict(trial.user_attrs)
                mask = SkipMask.parse(facts.pop("mask"), self.layers)
                found.append(Trial(mask, trial.value, facts))
        return found

    def append(self, trial: Trial) -> None:
        """Write one trial to disk before returning."""
        import optuna

        bits = trial.mask.bits
        distribution = optuna.distributions.IntDistribution(0, 1)
        names = [sublayer_name(i) for i in range(len(bits))]
        frozen = optuna.trial.create_trial(
            params=dict(zip(names, bits, strict=True)),
            distributions=dict.fromkeys(names, distribution),
            value=trial.value,
            user_attrs={"mask": str(trial.mask), **trial.facts},
        )
        try:
            self._study.add_trial(frozen)
        except OSError as error:
            raise OutputError(
                f"cannot write the journal {self.path}: {error.strerror or error}",
                hint="free some space, then go on with --resume",
            ) from None


def _open_study(path: Path) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            _mend(path)
            storage = JournalStorage(JournalFileBackend(str(path)))
            names = optuna.get_all_study_names(storage)
            if STUDY_NAME in names:
                return optuna.load_study(study_name=STUDY_NAME, storage=storage)
            storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], STUDY_NAME)
            return optuna.load_study(study_name=STUDY_NAME, storage=storage)
        except OSError as error:
            raise OutputError(
                f"cannot open the journal {path}: {error.strerror or error}",
                hint="choose an --output in a folder you may write to",
            ) from None
        except (ValueError, KeyError, TypeError, AssertionError):
            raise SearchError(
                f"{path} is not a search journal", hint="delete it, or give another --output"
            ) from None


def _mend(path: Path) -> None:
    """Cut off a torn last line: what is appended would become part of it, and be lost.

    Raises:
        ValueError: no line of a journal stands first; the file is left as it is.
    """
    if not path.exists():
        return
    data = path.read_bytes()
    begin = data[: len(EVERY_LINE)]
    torn = b"\n" not in data and EVERY_LINE.startswith(begin)
    if not (torn or begin == EVERY_LINE):
        raise ValueError(f"{path} does not begin as a journal does")
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
