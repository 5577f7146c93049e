"""`skipopt search`: find a mask, its γ and τ; write a profile."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from skipopt.cli import options
from skipopt.cli.output import Output
from skipopt.cli.watching import SearchProgress, keeping
from skipopt.errors import UsageError
from skipopt.exit_codes import ExitCode
from skipopt.storage.workers import DEFAULT_STUDY

if TYPE_CHECKING:
    from skipopt.profile import Profile

DEFAULT_SECONDS = 60.0


def search(
    model: options.Model = None,
    prompts: options.Prompts = None,
    output: Annotated[
        Path, options.option("--output", "-o", metavar="FILE", help="The profile to write.")
    ] = Path("profile.yaml"),
    sampler: Annotated[
        str,
        options.option(
            "--sampler",
            metavar="NAME",
            help="auto, random, bayes, tpe, gp, greedy, local-search, leave-one-out, swift, dp, "
            "exhaustive.",
        ),
    ] = "auto",
    objective: Annotated[
        Literal["speed", "matchness"],
        options.option("--objective", help="What a mask is judged by."),
    ] = "speed",
    skip_ratio: Annotated[
        float | None,
        options.option(
            "--skip-ratio", metavar="R", min=0, max=1, help="Skip exactly this share of sublayers."
        ),
    ] = None,
    keep: Annotated[
        str | None,
        options.option(
            "--keep", metavar="LAYERS", help="Layers never skipped, like 0,-1: first and last."
        ),
    ] = None,
    gamma: Annotated[
        int | None, options.option("--gamma", metavar="N", help="Fix the draft length γ.")
    ] = None,
    tau: Annotated[
        float | None, options.option("--tau", metavar="T", help="Fix the stop threshold τ.")
    ] = None,
    contexts: Annotated[
        str | None,
        options.option(
            "--contexts",
            metavar="LENGTHS",
            help="Look for masks for longer texts too, from so many tokens on: 512,2048.",
        ),
    ] = None,
    draft_config: Annotated[
        str,
        options.option(
            "--levers",
            metavar="NAMES",
            help="What drafts may be made cheaper by, with commas: skip, int8, int4, window, "
            "window=128 (docs/levers.md).",
        ),
    ] = "skip",
    trials: Annotated[
        int | None, options.option("--trials", metavar="N", min=1, help="Masks to score, at most.")
    ] = None,
    timeout: Annotated[
        float | None,
        options.option(
            "--timeout",
            metavar="SECONDS",
            help="How long to search. Default: 60, or no limit with --trials.",
            show_default=False,
        ),
    ] = None,
    seed: options.Seed = 0,
    resume: Annotated[
        bool, options.option("--resume", help="Go on with the journal, if there is one.")
    ] = False,
    fresh: Annotated[
        bool, options.option("--fresh", help="Delete the journal of an earlier search first.")
    ] = False,
    workers: Annotated[
        int,
        options.option(
            "--workers", metavar="N", min=1, help="Processes on this machine that search together."
        ),
    ] = 1,
    storage: Annotated[
        str | None,
        options.option(
            "--storage",
            metavar="URL",
            help="Where workers of several commands or machines share the study: postgresql://…, "
            "mysql://…, or, on one machine, a journal file (docs/workers.md).",
        ),
    ] = None,
    study: Annotated[
        str | None,
        options.option(
            "--study",
            metavar="NAME",
            help="The study on the storage; joined if it is there. Default: skipopt.",
            show_default=False,
        ),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    runtime: options.Runtime = "auto",
    device_map: options.DeviceMap = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    config: options.Config = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Find a mask, its draft length and stop threshold; write a profile.

    Every trial is kept in a journal beside the profile, FILE.journal. A journal that is there
    already is never overwritten unasked: --resume goes on with it, --fresh deletes it. With
    --storage they are kept there instead, and a study of that name is joined.

    Example: skipopt search builtin -o profile.yaml --timeout 60
    """
    from skipopt.cli.loading import BUILTIN, ModelOptions, load_target
    from skipopt.cli.progress import Display
    from skipopt.files import check_writable
    from skipopt.prompts import load_prompts
    from skipopt.storage.workers import DistributedConfig
    from skipopt.study.study import Interrupted
    from skipopt.study.study import search as run_search

    say = Output(json, quiet, verbose, no_progress)
    timeout = budget(trials, timeout)
    check_sampler(sampler)
    names = read_levers(draft_config, objective)
    check_sharing(storage, study, fresh)
    check_writable(output)
    journal = None if storage else prepare_journal(output, resume, fresh)
    texts = load_prompts(prompts)
    loading = ModelOptions(
        device, dtype, threads, revision, trust_remote_code, runtime, device_map
    )
    target = load_target(model or BUILTIN, loading, say)
    sharing = DistributedConfig(
        workers,
        storage,
        study or DEFAULT_STUDY,
        # A helper is told its share of the threads, and says nothing.
        partial(load_target, model or BUILTIN, replace(loading, threads=None), Output(quiet=True)),
    )
    if not verbose:
        hush_optuna()
    if fresh and journal is not None:
        journal.unlink(missing_ok=True)
    try:
        with (
            Display(say) as display,
            keeping(journal, SearchProgress(display, objective)) as watcher,
        ):
            found = run_search(
                target,
                texts,
                sampler=sampler,
                objective=objective,
                skip_ratio=skip_ratio,
                keep_layers=numbers(keep, "layers", "--keep 0,-1"),
                gamma=gamma,
                tau=tau,
                trials=trials,
                timeout=timeout,
                seed=seed,
                journal=journal,
                resume=resume,
                on_progress=watcher,
                context_lengths=numbers(contexts, "context lengths", "--contexts 512,2048"),
                search_space=names,
                distributed=sharing,
                on_note=say.note,
            )
    except Interrupted as stopped:
        kept = journal or f"study {sharing.study!r} on the storage"
        return finish_interrupted(stopped.profile, output, kept, say)
    return finish(found, output, say)


def hush_optuna() -> None:
    """It logs on stderr, which is ours."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


def budget(trials: int | None, timeout: float | None) -> float | None:
    """Seconds to search; a number of trials alone is not cut short by a clock.

    Raises:
        UsageError: not above 0.
    """
    if timeout is None:
        return DEFAULT_SECONDS if trials is None else None
    if not timeout > 0:
        raise UsageError(f"timeout must be above 0 seconds, not {timeout:g}")
    return timeout


def numbers(text: str | None, what: str, example: str) -> list[int]:
    """`0,-1` as numbers.

    Raises:
        UsageError: something between the commas is no number.
    """
    try:
        return [int(part) for part in (text or "").split(",") if part.strip()]
    except ValueError:
        raise UsageError(
            f"cannot read the {what} {text!r}", hint=f"write them like {example}"
        ) from None


def check_sampler(name: str) -> None:
    """Before a model is loaded.

    Raises:
        UsageError: no sampler has that name.
    """
    from skipopt.samplers.registry import SAMPLERS

    if name not in SAMPLERS:
        raise UsageError(
            f"there is no sampler {name!r}", hint=f"choose one of {', '.join(SAMPLERS)}"
        )


def read_levers(text: str, objective: Literal["speed", "matchness"]) -> tuple[str, ...]:
    """`skip,int8` as names, before a model is loaded.

    Raises:
        UsageError: there is none of a name, or the objective knows none.
    """
    from skipopt.study.config import SearchConfig

    names = tuple(part.strip() for part in text.split(",") if part.strip())
    share = 0.5 if objective == "matchness" else None  # that one is missing is told elsewhere
    return SearchConfig(objective=objective, skip_ratio=share, search_space=names).search_space


def check_sharing(storage: str | None, study: str | None, fresh: bool) -> None:
    """Before a model is loaded.

    Raises:
        UsageError: not a storage that can be shared, or options that make no sense together.
    """
    if storage is None:
        if study is not None:
            raise UsageError("--study names a study on a --storage", hint="give --storage too")
        return
    if fresh:
        raise UsageError(
            "--fresh would delete what other workers may be working on",
            hint="leave it out, or begin another --study",
        )
    from skipopt.storage.backends import check_storage
    from skipopt.storage.study_key import check_study_name

    check_storage(storage)
    check_study_name(study or DEFAULT_STUDY)


def prepare_journal(output: Path, resume: bool, fresh: bool) -> Path:
    """Where trials are kept.

    Raises:
        SearchError: an earlier search lies there, and nobody said what to do with it.
        UsageError: both were said.
    """
    from skipopt.storage.study_key import check_unused

    if resume and fresh:
        raise UsageError("--resume and --fresh exclude each other", hint="leave one out")
    journal = output.with_name(output.name + ".journal")
    if not (resume or fresh):
        check_unused(journal)
    return journal


def finish(found: Profile, path: Path, output: Output) -> int:
    """Write the profile and say what it holds."""
    from skipopt.reporting.profiles import profile_text

    found.save(path)
    output.result(found.as_dict(), profile_text(found))
    output.note(f"wrote {path}")
    return 0


def finish_interrupted(found: Profile | None, path: Path, kept: Path | str, output: Output) -> int:
    """Keep what there is; `--resume` goes on from where trials are kept."""
    if found is not None:
        finish(found, path, output)
    if isinstance(kept, str) or kept.exists():
        output.note(f"interrupted; trials are kept in {kept}: --resume goes on")
    return ExitCode.INTERRUPTED
