"""`skipopt check`: fail if a profile has lost its speedup or is not lossless. For CI."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from skipopt.cli import options
from skipopt.cli.command import command
from skipopt.cli.model_options import ModelOptions, ProfileFile, load_with_profile
from skipopt.cli.output import Output
from skipopt.cli.prompt_options import held_out, prompts_for, read_prompts
from skipopt.cli.streams import print_line
from skipopt.errors import UsageError
from skipopt.exit_codes import ExitCode

if TYPE_CHECKING:
    from skipopt.measurement.regression_gate import CheckResult

LEAST_SECONDS = 1e-3  # of the check itself, where loading took all the time
EXIT_CODES = {
    "pass": ExitCode.OK,
    "fail": ExitCode.SPEED_REGRESSED,
    "inconclusive": ExitCode.INCONCLUSIVE,
}


@command
def check(
    *,
    model: options.Model = None,
    profile: options.Profile = None,
    prompts: options.Prompts = None,
    prompt_key: options.PromptKey = None,
    num_prompts: options.NumPrompts = None,
    min_speedup: Annotated[
        float,
        options.option(
            "--min-speedup", metavar="X", help="The least speedup, whatever the baseline."
        ),
    ] = 1.0,
    tolerance: Annotated[
        str,
        options.option(
            "--tolerance",
            metavar="SHARE",
            help="Share of the baseline's speedup that may be lost.",
        ),
    ] = "5%",
    max_new_tokens: options.MaxNewTokens = 64,
    timeout: Annotated[
        float,
        options.option(
            "--timeout", metavar="SECONDS", help="Longest time of the command, loading included."
        ),
    ] = 120.0,
    repeats: Annotated[
        int,
        options.option(
            "--repeats",
            metavar="N",
            min=1,
            help="Repeats of each text at least, while time allows; 6 for a good baseline.",
        ),
    ] = 2,
    baseline: Annotated[
        Path | None,
        options.option(
            "--baseline",
            metavar="FILE",
            help="An earlier `check --json` of the same model, compared text by text, or a "
            "profile of the model, whose speedup must be kept. Default: the profile itself.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        options.option(
            "--against",
            metavar="PROFILE",
            help="Another profile of the model, to time in place of plain decoding: fails when "
            "--profile is slower by more than the tolerance.",
            show_default=False,
        ),
    ] = None,
    on_inconclusive: Annotated[
        Literal["fail", "warn", "pass"],
        options.option(
            "--on-inconclusive",
            help="What an inconclusive measurement does: fail ends with status 4; warn prints a "
            "note and pass does not, both end with status 0.",
        ),
    ] = "fail",
    junit: Annotated[
        Path | None,
        options.option("--junit", metavar="FILE", help="Also write a JUnit report."),
    ] = None,
    markdown: Annotated[
        Path | None,
        options.option("--markdown", metavar="FILE", help="Also write the table as Markdown."),
    ] = None,
    history: Annotated[
        Path | None,
        options.option(
            "--history",
            metavar="FILE",
            help="Also append the figures as a line of JSON; `skipopt show FILE` draws the trend.",
        ),
    ] = None,
    github_benchmark: Annotated[
        Path | None,
        options.option(
            "--github-benchmark",
            metavar="FILE",
            help="Also write the figures for github-action-benchmark (customBiggerIsBetter).",
        ),
    ] = None,
    bencher: Annotated[
        Path | None,
        options.option(
            "--bencher",
            metavar="FILE",
            help="Also write the figures in Bencher's metric format.",
        ),
    ] = None,
    loading: ModelOptions,
    terminal: Output,
) -> int:
    """Fail if a profile has lost its speedup or is not lossless on this machine.

    Exit status: 0 pass, 3 speed regressed, 4 inconclusive, 5 not lossless.

    Example: skipopt check --profile profile.yaml --min-speedup 1.1
    """
    began = time.perf_counter()
    from skipopt.cli.progress import Display
    from skipopt.measurement.regression_gate import check as run_check
    from skipopt.measurement.threshold import Baseline
    from skipopt.reporting.tables import check_table

    if profile is None:
        raise UsageError("check needs a profile", hint="--profile FILE, made by `skipopt search`")
    check_numbers(min_speedup, timeout)
    lost = read_share(tolerance)
    if against is not None and baseline is not None:
        raise UsageError("--against and --baseline at once", hint="give one of them")
    files = CheckFiles(markdown, junit, history, github_benchmark, bencher)
    files.check_writable()
    other = None if against is None else ProfileFile(against)
    compared = None if baseline is None else Baseline.load(baseline)
    given = read_prompts(prompts, prompt_key, terminal)
    target, found = load_with_profile(model, profile, loading, terminal)
    assert found is not None
    reference = None if other is None else other.for_target(target)
    texts = held_out(prompts_for(given, target, terminal), num_prompts, terminal).held_out
    with Display(terminal) as display:
        result = run_check(
            target,
            found,
            texts,
            min_speedup=min_speedup,
            tolerance=lost,
            baseline=compared,
            against=reference,
            max_new_tokens=max_new_tokens,
            timeout=max(LEAST_SECONDS, timeout - (time.perf_counter() - began)),
            min_repeats=repeats,
            on_progress=display.counter("check", " s at most"),
        )
    try:
        files.write(result, profile)
        tell_github(result, profile, on_inconclusive)
    finally:
        terminal.result(result.to_json(), check_table(result))
    if not result.is_lossless:
        return ExitCode.NOT_LOSSLESS
    if result.verdict == "inconclusive" and on_inconclusive != "fail":
        if on_inconclusive == "warn":
            terminal.note(f"warning: inconclusive: {result.reason}")
        return ExitCode.OK
    return EXIT_CODES[result.verdict]


@dataclass(frozen=True, slots=True)
class CheckFiles:
    """Files that a check writes besides its result; None: not asked for."""

    markdown: Path | None
    junit: Path | None
    history: Path | None
    github_benchmark: Path | None
    bencher: Path | None

    def check_writable(self) -> None:
        """Raise OutputError before the measurement where one cannot be written."""
        from skipopt.files import check_writable

        files = (self.markdown, self.junit, self.history, self.github_benchmark, self.bencher)
        for path in filter(None, files):
            check_writable(path)

    def write(self, result: CheckResult, profile: str) -> None:
        """Write all of them.

        Raises:
            OutputError: one cannot be written.
        """
        from skipopt.files import write_atomically
        from skipopt.reporting.benchmark_exports import bencher_metrics, github_benchmark
        from skipopt.reporting.check_history import append_check
        from skipopt.reporting.junit import junit_report
        from skipopt.reporting.tables import markdown_table

        if self.markdown is not None:
            write_atomically(self.markdown, markdown_table(result))
        if self.junit is not None:
            write_atomically(self.junit, junit_report(result, profile))
        if self.github_benchmark is not None:
            write_atomically(self.github_benchmark, github_benchmark(result))
        if self.bencher is not None:
            write_atomically(self.bencher, bencher_metrics(result))
        if self.history is not None:
            append_check(self.history, result, profile, current_commit())


def current_commit() -> str | None:
    """The commit of the checkout in which the command runs."""
    from skipopt.environment import checkout_state

    return os.environ.get("GITHUB_SHA") or checkout_state(Path.cwd())[0]


def tell_github(result: CheckResult, profile: str, on_inconclusive: str) -> None:
    """In a step of GitHub Actions: summary of the job, outputs of the step, and an annotation.

    Raises:
        OutputError: a file of the step cannot be written.
    """
    from skipopt.reporting import github_actions
    from skipopt.reporting.tables import markdown_table

    if not github_actions.is_github(os.environ):
        return
    print_line(github_actions.check_annotation(result, profile, on_inconclusive))
    github_actions.write_step_files(os.environ, result, profile, markdown_table(result))


def check_numbers(min_speedup: float, timeout: float) -> None:
    """Raise UsageError unless both are positive and finite."""
    for name, value in (("min-speedup", min_speedup), ("timeout", timeout)):
        if not 0 < value < float("inf"):
            raise UsageError(f"{name} must be finite and above 0, not {value:g}")


def read_share(text: str) -> float:
    """A share, written like `5%` or `0.05`.

    Raises:
        UsageError: not a number, or outside [0, 1).
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(f"tolerance is {text!r}, expected a share", hint="like 5% or 0.05")
    return share
