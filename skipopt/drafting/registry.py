"""From a method's name and options to a drafter. Options are the constructor's own arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from skipopt.drafting.context_switching import ContextSwitchingDrafter
from skipopt.methods import MethodSpec, read_options

if TYPE_CHECKING:
    from skipopt.drafting.base import Drafter
    from skipopt.models.target import Target
    from skipopt.profile import DraftSettings, Profile

# Constructor arguments that are not options.
GIVEN = ("target", "mask", "vocabulary", "online_state")


def drafter_class(spec: MethodSpec) -> type[Drafter]:
    """The drafter of a method."""
    module, _, name = spec.method.drafter.partition(":")
    found: type[Drafter] = getattr(import_module(f"skipopt.drafting.{module}"), name)
    return found


def make_drafter(target: Target, spec: MethodSpec, profile: Profile | None = None) -> Drafter:
    """A new drafter for decoding one text.

    Mask, γ, τ and draft config come from the profile where the drafter takes them;
    the options of `spec` override them. Where the profile has other settings for longer texts,
    the drafter switches with the length of the text.

    Raises:
        UsageError: an option that the method does not have, or a value it does not take.
    """
    made = drafter_class(spec)
    parameters = inspect.signature(made).parameters
    options = read_options(spec.name, spec.options, made, GIVEN)
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
    for settings in profile.draft_settings:
        yield settings.min_context, _arguments(spec, settings)


def _arguments(spec: MethodSpec, settings: DraftSettings) -> dict[str, Any]:
    arguments: dict[str, Any] = {"mask": settings.mask}
    if spec.method.needs_mask:  # γ and τ were found for drafts under the mask, not for others
        arguments |= {"gamma": settings.gamma, "tau": settings.tau}
    if spec.takes_draft_config:
        config = settings.draft_config
        arguments |= config.replaced_by(spec.options).values
        arguments["vocabulary"] = config.vocabulary  # used if it has as many tokens as `vocab`
    return arguments
