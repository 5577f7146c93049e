"""`skipopt search`: find a skip mask with its γ and τ, and write a profile."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from skipopt.cli import options
from skipopt.cli.command import command
from skipopt.cli.model_options import BUILTIN, ModelOptions, load_target
from skipopt.cli.output import Output
from skipopt.cli.prompt_options import prompts_for, read_prompts
from skipopt.cli.search_progress import SearchProgress, remove_empty_journal
from skipopt.errors import UsageError
from skipopt.exit_codes import ExitCode
from skipopt.interrupts import interrupts_held
from skipopt.study.config import SearchConfig

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.profile import Profile
    from skipopt.prompts import PromptSet
    from skipopt.storage.workers import DistributedConfig


@command
def search(
    *,
    model: options.Model = None,
    prompts: options.Prompts = None,
    prompt_key: options.PromptKey = None,
    output: Annotated[
        Path, options.option("--output", "-o", metavar="FILE", help="The profile to write.")
    ] = Path("profile.yaml"),
    search_config: SearchConfig,
    resume: Annotated[
        bool, options.option("--resume", help="Continue with the trials of the journal, if any.")
    ] = False,
    overwrite: Annotated[
        bool,
        options.option("--overwrite", help="Delete the journal of an earlier search and start."),
    ] = False,
    workers: Annotated[
        int,
        options.option(
            "--workers",
            metavar="N",
            min=1,
            help="Number of processes on this machine, as far as cores and free memory allow.",
        ),
    ] = 1,
    storage: Annotated[
        str | None,
        options.option(
            "--storage",
            metavar="URL",
            help="Storage that several commands or machines share: postgresql://user@host/database"
            ", mysql://… (both need `skipopt[storage]`), or a journal file on one machine.",
        ),
    ] = None,
    study: Annotated[
        str | None,
        options.option(
            "--study",
            metavar="NAME",
            help="Name of the study on the storage; an existing one is joined. Default: skipopt.",
            show_default=False,
        ),
    ] = None,
    loading: ModelOptions,
    terminal: Output,
) -> int:
    """Find a skip mask with its γ and τ, and write a profile.

    Every trial is saved in a journal next to the profile, FILE.journal. An existing journal is
    never deleted without --overwrite; --resume continues it. With --storage, trials are saved
    there instead, and an existing study of that name is joined.

    Example: skipopt search builtin -o profile.yaml --timeout 60
    """
    from skipopt.files import check_writable, only_writer
    from skipopt.storage.workers import DEFAULT_STUDY, DistributedConfig

    check_sharing(storage, study, overwrite)
    check_writable(output)
    own = None if storage else output.with_name(output.name + ".journal")
    with nullcontext() if own is None else only_writer(own):
        if own is not None:
            check_journal(own, resume, overwrite)
        given = read_prompts(prompts, prompt_key, terminal)
        target = load_target(BUILTIN if model is None else model, loading, terminal)
        texts = prompts_for(given, target, terminal)
        distributed = DistributedConfig(
            workers,
            storage,
            study or DEFAULT_STUDY,
            # Worker processes get their share of the threads, and print nothing.
            partial(
                load_target,
                BUILTIN if model is None else model,
                replace(loading, threads=None),
                Output(quiet=True),
            ),
        )
        if overwrite and own is not None:
            own.unlink(missing_ok=True)
        where = SavedTrials(own, resume, distributed)
        return run_search(target, texts, search_config, where, output, terminal)


@dataclass(frozen=True, slots=True)
class SavedTrials:
    """Where trials are saved, and who else makes some.

    Attributes:
        journal: file of a search with one storage of its own; None: `distributed` names it.
        resume: trials that are already there count.
    """

    journal: Path | None
    resume: bool
    distributed: DistributedConfig

    @property
    def are_kept(self) -> bool:
        """Whether there are some that `--resume` goes on with."""
        from skipopt.storage.journal import holds_trials

        return self.journal is None or holds_trials(self.journal)

    def __str__(self) -> str:
        return str(self.journal or f"study {self.distributed.study!r} on the storage")


def run_search(
    target: Target,
    prompts: PromptSet,
    config: SearchConfig,
    trials: SavedTrials,
    output: Path,
    terminal: Output,
) -> int:
    """Search with a progress display; the profile is written, also after an interrupt."""
    from skipopt.cli.progress import Display
    from skipopt.study.interrupted import Interrupted
    from skipopt.study.study import search

    if not terminal.verbose:
        silence_optuna()
    try:
        with Display(terminal) as display:
            progress = SearchProgress(display, config.objective)
            with remove_empty_journal(trials.journal):
                found = search(
                    target,
                    prompts,
                    config,
                    journal=trials.journal,
                    resume=trials.resume,
                    on_progress=progress,
                    distributed=trials.distributed,
                    on_note=terminal.note,
                )
    except Interrupted as stopped:
        return finish_interrupted(stopped.profile, output, trials, terminal)
    except KeyboardInterrupt:  # before the search has begun, or while it ends
        return finish_interrupted(None, output, trials, terminal)
    return finish(found, output, terminal)


def silence_optuna() -> None:
    """Turn off what optuna logs on stderr."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


def check_sharing(storage: str | None, study: str | None, overwrite: bool) -> None:
    """Check the options of a shared storage before a model is loaded.

    Raises:
        UsageError: a storage that cannot be shared, or options that contradict each other.
    """
    if storage is None:
        if study is not None:
            raise UsageError("--study names a study on a --storage", hint="give --storage too")
        return
    if overwrite:
        raise UsageError(
            "--overwrite would delete trials of other workers",
            hint="leave it out, or start another --study",
        )
    from skipopt.storage.backends import check_storage
    from skipopt.storage.study_key import check_study_name

    check_storage(storage)
    if study is not None:
        check_study_name(study)


def check_journal(journal: Path, resume: bool, overwrite: bool) -> None:
    """Check before a model is loaded that a search may use its journal file.

    Raises:
        SearchError: it holds trials, and neither `resume` nor `overwrite` is given.
        UsageError: both are given.
    """
    from skipopt.storage.study_key import check_unused

    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other", hint="leave one out")
    if not (resume or overwrite):
        check_unused(journal)


def finish(found: Profile, path: Path, terminal: Output) -> int:
    """Write and print the profile."""
    from skipopt.reporting.profiles import next_steps, profile_text

    with interrupts_held():
        found.save(path)
    terminal.result(found.as_dict(), profile_text(found), next_steps(found, str(path)))
    terminal.note(f"wrote {path}")
    return ExitCode.OK


def finish_interrupted(
    found: Profile | None, path: Path, trials: SavedTrials, terminal: Output
) -> int:
    """Write the best profile so far, if any, and say how to continue."""
    if found is not None:
        finish(found, path, terminal)
    if trials.are_kept:
        terminal.note(f"interrupted; trials are saved in {trials}: --resume continues")
    else:
        terminal.note("interrupted before the first trial; nothing is saved")
    return ExitCode.INTERRUPTED
