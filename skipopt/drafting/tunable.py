"""What can be tuned while decoding, and where tuning begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.registry import read_drafter_options
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.methods import DRAFT_OPTIONS, MethodSpec
from skipopt.online.comparison import DraftParameters
from skipopt.online.gate import SpeculationGate
from skipopt.online.state import OnlineState
from skipopt.online.swift_search import alternating
from skipopt.online.tuner import OnlineTuner
from skipopt.runtime.draft_mode import check_experts, supported

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.online.config import OnlineConfig
    from skipopt.profile import Profile

METHOD = "layer-skip"  # the only method that can be tuned
OPTIONS = ("gamma", "tau", "verify", *DRAFT_OPTIONS)  # its options that tuning allows


def check_tunable(spec: MethodSpec) -> None:
    """Check that a method can be tuned.

    Raises:
        UsageError: another method, or an option that fixes what would be tuned.
    """
    if spec.name != METHOD:
        raise UsageError(f"{spec.name} cannot be tuned", hint=f"tuning is for {METHOD}")
    for key in spec.options:
        if key not in OPTIONS:
            raise UsageError(
                f"{key} leaves nothing to tune", hint=f"with tuning: {', '.join(OPTIONS)}"
            )


def begin_tuning(
    target: Target, spec: MethodSpec, profile: Profile | None, config: OnlineConfig
) -> OnlineState:
    """A new online state for tuning.

    It starts from the profile's mask, γ and τ. The draft config is the profile's with the options
    of `spec`, as far as it is supported. Without mask and draft config, it starts from SWIFT's
    first mask.

    Raises:
        UsageError: a method that cannot be tuned, a value out of range, or a model that keeps
            states: a mask is scored at many positions of the text at once.
    """
    check_tunable(spec)
    if target.keeps_states:
        raise UsageError(
            f"drafts of {target.architecture} cannot be tuned while generating: it keeps states "
            "of a text, which hold one position at a time",
            hint="search a profile with `skipopt search`, and generate with that",
        )
    own = {key: text for key, text in spec.options.items() if key != "verify"}
    options = read_drafter_options(MethodSpec(spec.name, own))
    settings = None if profile is None else profile.at(0)
    values: dict[str, Any] = (
        {} if settings is None else {"gamma": settings.gamma, "tau": settings.tau}
    )
    values |= options.arguments
    asked = options.change(UNCHANGED if settings is None else settings.draft_config)
    check_experts(target, asked)
    draft_config = supported(target, asked) if asked else UNCHANGED
    mask = _first_mask(target, profile, draft_config)
    first = LayerSkipDrafter(target, mask, **values)  # it checks the values
    parameters = DraftParameters(mask, first.gamma, first.tau, draft_config)
    tuner = OnlineTuner(parameters, config, target.unskippable)
    costs = target.runtime.verify_costs
    return OnlineState(costs, SpeculationGate(config), tuner=tuner)


def _first_mask(target: Target, profile: Profile | None, draft_config: DraftConfig) -> SkipMask:
    """The profile's mask; SWIFT's if nothing else would make drafts cheaper than the target."""
    if profile is not None and (profile.skip_mask.skipped or draft_config):
        return profile.skip_mask
    if draft_config:
        return SkipMask.empty(target.depth)
    return SkipMask(target.depth, alternating(target.depth).skipped - target.unskippable)
