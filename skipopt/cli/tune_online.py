"""`run --tune-online`: its options, its summary, and the profile it saves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skipopt.cli.streams import OutputClosed
from skipopt.errors import UsageError
from skipopt.interrupts import interrupts_held

if TYPE_CHECKING:
    from skipopt.cli.output import Output
    from skipopt.cli.text_output import Request
    from skipopt.online.state import OnlineState

OVERHEAD = 0.01


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """`--tune-online` and `--tune-overhead`.

    Attributes:
        on: tune while decoding.
        overhead: most of the decoding time that tuning may take, as a share.
    """

    on: bool
    overhead: float


def read_tuning(on: bool, overhead: float | None, save_to: Path | None) -> TuneOptions:
    """The options of online tuning, checked before a model is loaded.

    Raises:
        UsageError: a share outside (0, 1], or an option without --tune-online.
        OutputError: the profile cannot be written.
    """
    if not on and save_to is not None:
        raise UsageError("--save-profile needs --tune-online", hint="give --tune-online too")
    if not on and overhead is not None:
        raise UsageError("--tune-overhead needs --tune-online", hint="give --tune-online too")
    if overhead is not None and not 0 < overhead <= 1:
        raise UsageError(
            f"tune-overhead must lie in (0, 1], not {overhead}", hint="try --tune-overhead 0.05"
        )
    if save_to is not None:
        from skipopt.files import check_writable

        check_writable(save_to)
    return TuneOptions(on, OVERHEAD if overhead is None else overhead)


@contextmanager
def save_at_end(request: Request, path: Path | None, output: Output) -> Iterator[None]:
    """Save the tuned profile after decoding, also if it is interrupted or cannot be printed."""
    try:
        yield
    except (KeyboardInterrupt, OutputClosed, OSError):
        _save(request, path, output)
        raise
    _save(request, path, output)


def _save(request: Request, path: Path | None, output: Output) -> None:
    if path is None or request.online_state is None:
        return
    from skipopt.study.tuned_profile import tuned_profile

    state, seed = request.online_state, request.options.seed
    with interrupts_held():
        tuned_profile(request.target, state, request.prompt, request.profile, seed).save(path)
    output.note(f"wrote {path}")


def tuning_summary(state: OnlineState) -> str:
    """One line: candidates, switches, overhead, and whether drafting is on."""
    tuned = state.tuning_summary()
    drafting = "on" if tuned.enabled else "off: slower than plain decoding"
    return (
        f"tuning: {tuned.trials} candidates, {tuned.switches} switches "
        f"({tuned.rollbacks} rolled back), {tuned.overhead:.2%} of the time · "
        f"drafting is {drafting} (paused {tuned.pauses} times)"
    )
