"""`skipopt check`: fail if a profile has lost its speedup or is not lossless. For CI."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

from skipopt.cli import options
from skipopt.cli.command import command
from skipopt.cli.model_options import ModelOptions, load_with_profile
from skipopt.cli.output import Output
from skipopt.cli.prompt_options import held_out, prompts_for, read_prompts
from skipopt.errors import UsageError
from skipopt.exit_codes import ExitCode

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
    loading: ModelOptions,
    terminal: Output,
) -> int:
    """Fail if a profile has lost its speedup or is not lossless on this machine.

    Exit status: 0 pass, 3 speed regressed, 4 inconclusive, 5 not lossless.

    Example: skipopt check --profile profile.yaml --min-speedup 1.1
    """
    began = time.perf_counter()
    from skipopt.cli.progress import Display
    from skipopt.files import check_writable, write_atomically
    from skipopt.measurement.regression_gate import check as run_check
    from skipopt.measurement.threshold import Baseline
    from skipopt.reporting.junit import junit_report
    from skipopt.reporting.tables import check_table, markdown_table

    if profile is None:
        raise UsageError("check needs a profile", hint="--profile FILE, made by `skipopt search`")
    check_numbers(min_speedup, timeout)
    lost = read_share(tolerance)
    for path in filter(None, (markdown, junit)):
        check_writable(path)
    compared = None if baseline is None else Baseline.load(baseline)
    given = read_prompts(prompts, prompt_key, terminal)
    target, found = load_with_profile(model, profile, loading, terminal)
    texts = held_out(prompts_for(given, target, terminal), num_prompts, terminal).held_out
    assert found is not None
    with Display(terminal) as display:
        result = run_check(
            target,
            found,
            texts,
            min_speedup=min_speedup,
            tolerance=lost,
            baseline=compared,
            max_new_tokens=max_new_tokens,
            timeout=max(LEAST_SECONDS, timeout - (time.perf_counter() - began)),
            min_repeats=repeats,
            on_progress=display.counter("check", " s at most"),
        )
    try:
        if markdown is not None:
            write_atomically(markdown, markdown_table(result))
        if junit is not None:
            write_atomically(junit, junit_report(result, str(profile)))
    finally:
        terminal.result(result.to_json(), check_table(result))
    if not result.is_lossless:
        return ExitCode.NOT_LOSSLESS
    if result.verdict == "inconclusive" and on_inconclusive != "fail":
        if on_inconclusive == "warn":
            terminal.note(f"warning: inconclusive: {result.reason}")
        return ExitCode.OK
    return EXIT_CODES[result.verdict]


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
