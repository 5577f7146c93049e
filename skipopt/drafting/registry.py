"""From a method's name and options to a drafter.

Options are the constructor's own arguments; a constructor that takes a `draft_config` has the
options of a `DraftConfig` too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from skipopt.cost_model.costs import Costs
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.context_switching import ContextSwitchingDrafter
from skipopt.errors import UsageError
from skipopt.methods import (
    DRAFT_OPTIONS,
    MethodSpec,
    check_known,
    option_parameters,
    read_options,
)
from skipopt.sampling import check_seed

if TYPE_CHECKING:
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.drafting.base import Drafter
    from skipopt.models.target import Target
    from skipopt.profile import DraftSettings, Profile

MAX_DRAFT_ROWS = 4096  # more than any draft that pays; the KV cache has room for as many

# Constructor arguments that are not options.
GIVEN = ("target", "mask", "draft_config", "online_state", "memory", "costs")


def drafter_class(spec: MethodSpec) -> type[Drafter]:
    """The drafter of a method."""
    module, _, name = spec.method.drafter.partition(":")
    found: type[Drafter] = getattr(import_module(f"skipopt.drafting.{module}"), name)
    return found


def method_options(spec: MethodSpec) -> dict[str, inspect.Parameter]:
    """The options that a method has."""
    own = option_parameters(drafter_class(spec), GIVEN)
    if not spec.method.takes_draft_config:
        return own
    return own | option_parameters(DraftConfig.of, ("vocabulary",))


def takes_memory(spec: MethodSpec) -> bool:
    """Whether a method copies from earlier texts."""
    return "memory" in inspect.signature(drafter_class(spec)).parameters


@dataclass(frozen=True, slots=True)
class DrafterOptions:
    """The values of a method's options.

    Attributes:
        arguments: of the constructor.
        draft_config: of `DraftConfig.of`.
    """

    arguments: Mapping[str, Any]
    draft_config: Mapping[str, Any]

    def change(self, config: DraftConfig) -> DraftConfig:
        """The draft config with these options in place of its own values."""
        if not self.draft_config:
            return config
        values = config.replaced_by(self.draft_config).values | dict(self.draft_config)
        given: dict[str, Any] = {**values, "vocabulary": config.vocabulary}
        return DraftConfig.of(**given)


def read_drafter_options(spec: MethodSpec) -> DrafterOptions:
    """The values of the options of a method.

    Raises:
        UsageError: an option that the method does not have, or a value of the wrong type or far
            too large.
    """
    check_known(spec.name, spec.options, method_options(spec))
    settings = DRAFT_OPTIONS if spec.method.takes_draft_config else ()
    own = {key: text for key, text in spec.options.items() if key not in settings}
    rest = {key: text for key, text in spec.options.items() if key in settings}
    values = read_options(spec.name, own, drafter_class(spec), GIVEN)
    _check_sizes(spec.name, values)
    return DrafterOptions(values, read_options(spec.name, rest, DraftConfig.of))


def _check_sizes(name: str, values: Mapping[str, Any]) -> None:
    """Raise UsageError for a number with which drafts would be too long, or a wrong seed."""
    for key, value in values.items():
        if key == "seed":
            check_seed(value)
            continue
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, int | float) and each > MAX_DRAFT_ROWS:
                raise UsageError(f"{name}: {key} must be at most {MAX_DRAFT_ROWS}, not {each}")


def make_drafter(
    target: Target,
    spec: MethodSpec,
    profile: Profile | None = None,
    memory: DraftMemory | None = None,
) -> Drafter:
    """A new drafter for decoding one text.

    Mask, γ, τ and draft config come from the profile where the drafter takes them;
    the options of `spec` override them. Where the profile has other settings for longer texts,
    the drafter switches with the length of the text.

    Args:
        memory: earlier texts, for a drafter that takes them.

    Raises:
        UsageError: an option that the method does not have, a value it does not take, or drafts
            of more than `MAX_DRAFT_ROWS` tokens.
    """
    made = drafter_class(spec)
    parameters = inspect.signature(made).parameters
    options = read_drafter_options(spec)
    drafters: dict[int, Drafter] = {}
    last: dict[str, Any] | None = None
    for start, given in _from_profile(spec, profile, options):
        arguments = {"target": target, "memory": memory, **given, **options.arguments}
        arguments = {key: value for key, value in arguments.items() if key in parameters}
        if arguments != last:  # else nothing that this method takes has changed
            drafters[start], last = made(**arguments), arguments
    drafter = ContextSwitchingDrafter(drafters) if len(drafters) > 1 else drafters[0]
    if drafter.max_extra_rows > MAX_DRAFT_ROWS:
        raise UsageError(
            f"a round of {spec} verifies up to {drafter.max_extra_rows} drafted tokens, and "
            f"{MAX_DRAFT_ROWS} at most are possible",
            hint="use shorter drafts",
        )
    return drafter


def _from_profile(
    spec: MethodSpec, profile: Profile | None, options: DrafterOptions
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(tokens from which on, arguments), the first from 0 on."""
    if profile is None:
        yield 0, {"draft_config": options.change(UNCHANGED)}
        return
    for settings in profile.draft_settings:
        given = _arguments(spec, settings, options)
        as_measured = given["draft_config"] == settings.draft_config
        section = profile.costs if as_measured else None
        yield settings.min_context, {**given, "costs": section and Costs.of(section)}


def _arguments(
    spec: MethodSpec, settings: DraftSettings, options: DrafterOptions
) -> dict[str, Any]:
    config = settings.draft_config if spec.takes_draft_config else UNCHANGED
    arguments: dict[str, Any] = {"mask": settings.mask, "draft_config": options.change(config)}
    if spec.method.needs_mask:  # γ and τ were found for drafts under the mask, not for others
        arguments |= {"gamma": settings.gamma, "tau": settings.tau}
    return arguments
