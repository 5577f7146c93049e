"""Verifiers by name and options. Knows nothing of drafters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from skipopt.errors import UsageError
from skipopt.verification.match import Match
from skipopt.verification.rejection import Rejection
from skipopt.verification.relaxed import RelaxedTop, RelaxedTypical

if TYPE_CHECKING:
    from skipopt.sampling import SamplingOptions
    from skipopt.verification.base import Verifier

# Those whose name begins with `relaxed` are faster and not exact.
VERIFIERS: Mapping[str, Callable[..., Verifier]] = {
    "match": Match,
    "rejection": Rejection,
    "relaxed-top": RelaxedTop,
    "relaxed-typical": RelaxedTypical,
}
GREEDY_ONLY = frozenset({"relaxed-top"})
CHOICE = "verify"


def split_options(options: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Of a method's options, those that choose and set a verifier, and the rest."""
    own = {CHOICE}
    if (made := VERIFIERS.get(options.get(CHOICE, ""))) is not None:
        own |= set(_settings(made))
    return (
        {key: value for key, value in options.items() if key in own},
        {key: value for key, value in options.items() if key not in own},
    )


def make_verifier(options: Mapping[str, str], best: str, sampling: SamplingOptions) -> Verifier:
    """The verifier that options choose, else the drafter's best one.

    Raises:
        UsageError: there is none of that name, it does not sample, or a setting is no number or
            out of range.
    """
    name = options.get(CHOICE, best)
    if name not in VERIFIERS:
        raise UsageError(f"unknown verifier {name!r}", hint=f"use one of {', '.join(VERIFIERS)}")
    if sampling.greedy and name == "rejection":
        # Rejection with one-hot rows is matching.
        name = "match"
    if name in GREEDY_ONLY and not sampling.greedy:
        raise UsageError(
            f"{name} is for greedy decoding, and temperature is {sampling.temperature}",
            hint="leave temperature at 0, or use relaxed-typical",
        )
    made = VERIFIERS[name]
    return made(**_read(options, _settings(made)))


def _settings(made: Callable[..., Verifier]) -> dict[str, str]:
    """The numbers a verifier takes, and of which type each is."""
    parameters = inspect.signature(made).parameters.values()
    return {p.name: str(p.annotation) for p in parameters if p.name not in ("name", "coupled")}


def _read(options: Mapping[str, str], kinds: Mapping[str, str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for key, text in options.items():
        if key != CHOICE:
            whole = kinds[key] == "int"
            try:
                values[key] = int(text) if whole else float(text)
            except ValueError:
                expected = "a whole number" if whole else "a number"
                raise UsageError(f"{key} is {text!r}, expected {expected}") from None
    return values
