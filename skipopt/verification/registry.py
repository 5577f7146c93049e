"""Verifiers by name, and their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from skipopt.errors import UsageError
from skipopt.methods import option_parameters, read_options
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
VERIFY = "verify"  # the option that names the verifier


def split_options(options: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """(options of the verifier: its name and its settings; options of the drafter)."""
    own = {VERIFY}
    if (made := VERIFIERS.get(options.get(VERIFY, ""))) is not None:
        own |= option_parameters(made).keys()
    return (
        {key: value for key, value in options.items() if key in own},
        {key: value for key, value in options.items() if key not in own},
    )


def read_verifier(options: Mapping[str, str], default: str) -> tuple[str, Mapping[str, Any]]:
    """The name of the verifier, and the values of its settings.

    Args:
        default: the verifier where the option `verify` names none.

    Raises:
        UsageError: an unknown name, or a setting that it does not have or of the wrong type.
    """
    name = options.get(VERIFY, default)
    if name not in VERIFIERS:
        raise UsageError(f"unknown verifier {name!r}", hint=f"use one of {', '.join(VERIFIERS)}")
    settings = {key: value for key, value in options.items() if key != VERIFY}
    return name, read_options(name, settings, VERIFIERS[name])


def make_verifier(options: Mapping[str, str], default: str, sampling: SamplingOptions) -> Verifier:
    """The verifier that the option `verify` names, else the drafter's default.

    Raises:
        UsageError: an unknown name, a verifier for greedy decoding where tokens are sampled, or
            a setting of the wrong type or out of range.
    """
    name, settings = read_verifier(options, default)
    if sampling.greedy and name == "rejection":
        # With one-hot distributions rejection sampling is matching.
        name = "match"
    if name in GREEDY_ONLY and not sampling.greedy:
        raise UsageError(
            f"{name} is for greedy decoding, and temperature is {sampling.temperature}",
            hint="leave temperature at 0, or use relaxed-typical",
        )
    return VERIFIERS[name](**settings)
