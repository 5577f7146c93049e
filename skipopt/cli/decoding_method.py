"""The method that a command decodes with: checked early, and told where it is plain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipopt.cli.output import Output

if TYPE_CHECKING:
    from skipopt.profile import Profile

NO_PROFILE = "no profile: decoding plainly (`skipopt search` makes one)"


def check_method(method: str | None, profile: str | None, tuning: bool = False) -> None:
    """Check the method as far as that is possible before a model is loaded.

    Raises:
        UsageError: it is unknown, has an unknown option, needs a profile, or cannot be tuned.
    """
    from skipopt.decoding.api import check_options, resolve_method
    from skipopt.methods import parse_method

    if profile is None or tuning:
        resolve_method(None, method, tuning)
    if method is not None:
        check_options(parse_method(method))


def note_plain(profile: Profile | None, method: str | None, output: Output) -> None:
    """Print a line where no method is named, and the profile does not speculate or is missing."""
    if method is None and profile is None:
        output.note(NO_PROFILE)
    if method is None and profile is not None:
        note_off(profile, output)


def note_off(profile: Profile, output: Output) -> None:
    """Print a line if speculation is off in the profile."""
    if not profile.enabled:
        output.note(f"speculation is off in the profile: {profile.reason}")
