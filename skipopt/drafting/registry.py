"""From a method's name and options to a drafter: options are the constructor's own arguments.

Knows nothing of decoding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from skipopt.draft_config import DraftConfig
from skipopt.drafting.context_switching import ContextSwitchingDrafter
from skipopt.errors import UsageError
from skipopt.methods import MethodSpec

if TYPE_CHECKING:
    from skipopt.drafting.base import Drafter
    from skipopt.models.target import Target
    from skipopt.profile import DraftSettings, Profile

# Arguments that are given, and not chosen by a user.
GIVEN = ("self", "target", "mask", "online_state")


def drafter_class(spec: MethodSpec) -> type[Drafter]:
    """The class behind a method."""
    module, _, name = spec.method.drafter.partition(":")
    found: type[Drafter] = getattr(import_module(f"skipopt.drafting.{module}"), name)
    return found


def make_drafter(target: Target, spec: MethodSpec, profile: Profile | None = None) -> Drafter:
    """A fresh drafter for one decoding.

    Mask, γ and τ come from the profile where the drafter takes them; what `spec` says goes first.
    Where the profile has others for longer texts, the drafter changes with the text.

    Raises:
        UsageError: an option that the method does not have, or a value it does not take.
    """
    made = drafter_class(spec)
    parameters = inspect.signature(made).parameters
    options = read_options(spec, parameters)
    drafters: dict[int, Drafter] = {}
    last: dict[str, Any] | None = None
    for start, given in _from_profile(spec, profile):
        arguments = {"target": target, **given, **options}
        arguments = {key: value for key, value in arguments.items() if key in parameters}
        if arguments != last:  # else nothing that this method takes has changed
            drafters[start], last = made(**arguments), arguments
    return ContextSwitchingDrafter(drafters) if len(drafters) > 1 else drafters[0]


def _from_profile(
    spec: MethodSpec, profile: Profile | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(tokens from which on, arguments), the first from 0 on."""
    if profile is None:
        yield 0, {}
        return
    for way in profile.draftways:
        # γ and τ were found for drafts under the mask, and say nothing of others.
        pace = {"gamma": way.gamma, "tau": way.tau} if spec.method.needs_mask else {}
        yield way.start, {"mask": way.mask, **pace, **_levers(spec, way)}


def _levers(spec: MethodSpec, way: DraftSettings) -> dict[str, Any]:
    return (
        {"draft_config": way.draft_config} if way.draft_config and spec.takes_draft_config else {}
    )


def read_options(spec: MethodSpec, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The options of `spec` as values.

    Raises:
        UsageError: unknown, or not of the right kind.
    """
    known = {name: p for name, p in parameters.items() if name not in GIVEN}
    values: dict[str, Any] = {}
    for key, text in spec.options.items():
        if key not in known:
            shown = ", ".join(f"{n}={p.default}" for n, p in known.items()) or "none"
            raise UsageError(f"{spec.name} has no option {key!r}", hint=f"its options: {shown}")
        values[key] = _read_value(spec, key, text, str(known[key].annotation))
    return values


def _read_value(spec: MethodSpec, key: str, text: str, kind: str) -> Any:
    read = READERS[kind.removesuffix(" | None")]
    try:
        return read(text)
    except ValueError:
        raise UsageError(
            f"{spec.name}: {key} is {text!r}, expected {kind}", hint="see docs/methods.md"
        ) from None


def _read_switch(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(text)
    return text == "yes"


def _read_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("-"))


READERS: Mapping[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": _read_switch,
    "tuple[int, ...]": _read_numbers,  # 3-2-1
    "Levers": DraftConfig.parse,  # int8+window=256
}
