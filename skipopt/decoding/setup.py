"""Drafter and verifier of one text, from a method and a profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.methods import MethodSpec
from skipopt.profile import Profile

if TYPE_CHECKING:
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.drafting.base import Drafter
    from skipopt.drafting.deferred import DeferredDrafter
    from skipopt.models.target import Target
    from skipopt.online.state import OnlineState
    from skipopt.sampling import SamplingOptions
    from skipopt.verification.base import Verifier


@dataclass(frozen=True, slots=True)
class DecodingSetup:
    """Drafter and verifier of one text; both are fresh."""

    drafter: Drafter
    verifier: Verifier


def make_decoding(
    target: Target,
    spec: MethodSpec,
    profile: Profile | None,
    options: SamplingOptions,
    online_state: OnlineState | None = None,
    memory: DraftMemory | None = None,
    defers: bool = True,
) -> DecodingSetup:
    """Drafter and verifier of a method; its option `verify` selects another verifier.

    Args:
        online_state: tune the method meanwhile, starting from this state.
        memory: earlier texts, for a method that copies from them.
        defers: put drafts off until their preparation pays back.

    Raises:
        UsageError: an unknown option or verifier, or a value out of range.
    """
    from skipopt.drafting.registry import make_drafter
    from skipopt.drafting.tuned import TunedDrafter
    from skipopt.verification.registry import make_verifier, split_options

    for_verifier, rest = split_options(spec.options)
    if online_state is None:
        drafter = make_drafter(target, MethodSpec(spec.name, rest), profile, memory)
    else:
        drafter = TunedDrafter(target, online_state)
    verifier = make_verifier(for_verifier, drafter.best_verifier, options)
    setup = DecodingSetup(drafter, verifier)
    if not defers:
        return setup
    deferred = deferral(target, spec, profile, setup, options)
    return setup if deferred is None else DecodingSetup(deferred, verifier)


def deferral(
    target: Target,
    spec: MethodSpec,
    profile: Profile | None,
    setup: DecodingSetup,
    options: SamplingOptions,
) -> DeferredDrafter | None:
    """What puts drafts off until their preparation pays back; None where they begin at once."""
    from skipopt.drafting.deferred import DeferredDrafter

    preparation = setup.drafter.preparation
    if preparation is None or not target.runtime.puts_drafts_off:
        return None
    if not same_tokens(setup.verifier, options):
        return None
    return DeferredDrafter(target, setup.drafter, preparation, _expected_speedup(spec, profile))


def same_tokens(verifier: Verifier, options: SamplingOptions) -> bool:
    """Whether the text is the same whatever is drafted."""
    lossless = not verifier.name.startswith("relaxed")
    return lossless and (options.greedy or verifier.coupled)


def _expected_speedup(spec: MethodSpec, profile: Profile | None) -> float | None:
    """What the profile measured or predicted; None where options make other drafts of it."""
    if profile is None or spec.options:
        return None
    if profile.measured is not None:
        return profile.measured.speedup.median
    return None if profile.predicted is None else profile.predicted.speedup
