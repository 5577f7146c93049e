"""What a search raises when it is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipopt.profile import Profile


class Interrupted(Exception):
    """The search was stopped by Ctrl-C.

    Attributes:
        profile: the best so far, without measurements; None before the first trial.
    """

    def __init__(self, profile: Profile | None) -> None:
        super().__init__("the search was interrupted")
        self.profile = profile
