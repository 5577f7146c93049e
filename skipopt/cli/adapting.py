"""`run --adapt`: what is tuned while a text is made, what is said of it, and what is kept.

Knows nothing of how a better mask is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skipopt.errors import UsageError

if TYPE_CHECKING:
    from skipopt.cli.generating import Request
    from skipopt.cli.output import Output
    from skipopt.online.state import OnlineState
    from skipopt.profile import Profile

SHARE = 0.01  # of the time, by default
SAMPLER = "adapt"  # what a profile says that its mask was found by


@dataclass(frozen=True, slots=True)
class AdaptOptions:
    """`--adapt` and `--adapt-share`.

    Attributes:
        on: tune while decoding.
        share: of the decoding time, the most that it may take.
    """

    on: bool
    share: float


def read_adapting(on: bool, share: float | None, save: Path | None) -> AdaptOptions:
    """The options, checked before a model is loaded.

    Raises:
        UsageError: a share outside (0, 1], or an option that means nothing without --adapt.
        OutputError: the file to save to could not be written.
    """
    if not on and save is not None:
        raise UsageError("--save keeps what --adapt learns", hint="give --adapt, too")
    if not on and share is not None:
        raise UsageError("--adapt-share needs --adapt", hint="give --adapt, too")
    if share is not None and not 0 < share <= 1:
        raise UsageError(
            f"adapt-share must lie in (0, 1], not {share}", hint="try --adapt-share 0.05"
        )
    if save is not None:
        from skipopt.files import check_writable

        check_writable(save)
    return AdaptOptions(on, SHARE if share is None else share)


@contextmanager
def saving(request: Request, path: Path | None, output: Output) -> Iterator[None]:
    """Keep what was learned meanwhile, also where decoding is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        _save(request, path, output)
        raise
    _save(request, path, output)


def _save(request: Request, path: Path | None, output: Output) -> None:
    if path is not None:
        learned_profile(request).save(path)
        output.note(f"wrote {path}")


def tuning_summary(learned: OnlineState) -> str:
    """One line of figures."""
    tuned = learned.tuning_summary()
    state = "on" if tuned.enabled else "off: slower than plain decoding"
    return (
        f"tuning: {tuned.trials} candidates, {tuned.switches} switches "
        f"({tuned.rollbacks} rolled back), {tuned.overhead:.2%} of the time · "
        f"drafting is {state} (paused {tuned.pauses} times)"
    )


def learned_profile(request: Request) -> Profile:
    """A profile of the current parameters, enabled if drafting with them was measured to pay."""
    from skipopt.bench.provenance import environment_of, hash_of
    from skipopt.profile import Profile

    assert request.online_state is not None
    tuned, reason = request.online_state.tuning_summary(), reason_against(request)
    now = tuned.parameters
    return Profile.build(
        request.target,
        now.mask,
        gamma=now.gamma,
        tau=now.tau,
        enabled=reason is None,
        reason=reason,
        search={
            "sampler": SAMPLER,
            "objective": "speed",
            "trials": tuned.trials,
            "seconds": tuned.seconds,
            "seed": request.options.seed,
            "prompts": hash_of([request.prompt]),
            "breaks_even_after_tokens": None,
        },
        environment=environment_of(request.target),
    )


def reason_against(request: Request) -> str | None:
    """Why the profile of what was learned is disabled; None if drafting pays."""
    learned = request.online_state
    assert learned is not None
    gate = learned.gate
    if gate.loss is not None:
        return _slower(gate.loss)
    if gate.gain is not None:
        return _slower(-gate.gain) if gate.gain < 0 else None
    before = request.profile
    if before is not None and not learned.tuning_summary().switches:
        return before.reason  # nothing new is known
    return "too few drafted rounds to measure whether drafting pays"


def _slower(loss: float) -> str:
    return f"speculation was slower while tuning: {-loss:.2f} tokens per round vs plain"
