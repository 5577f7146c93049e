"""Decode with a method by name, or with a profile: the public way into the decoding loop.

Knows nothing of text, timing or search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from skipopt.errors import UsageError
from skipopt.profile import METHODS, Profile
from skipopt.rounds import Round, Token

if TYPE_CHECKING:
    from skipopt.drafting.protocol import Drafter
    from skipopt.models.target import Target
    from skipopt.runtime.engine import Engine
    from skipopt.sampling import SamplingOptions


def resolve_method(profile: Profile | None, method: str | None) -> str:
    """The method asked for, else the profile's, else `plain`.

    A profile that says `enabled: false` decodes plainly unless a method is asked for by name.

    Raises:
        UsageError: unknown, or one that needs a profile there is none of.
    """
    if method is None:
        return profile.drafting.method if profile is not None and profile.enabled else "plain"
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}", hint=f"use one of {', '.join(METHODS)}")
    if method == "layer-skip" and profile is None:
        raise UsageError(
            "layer-skip needs a mask", hint="give one with --profile, made by `skipopt search`"
        )
    return method


def make_drafter(target: Target, method: str, profile: Profile | None) -> Drafter:
    """A fresh drafter for one decoding."""
    from skipopt.drafting.layer_skip import LayerSkipDrafter
    from skipopt.drafting.plain import NoDrafter
    from skipopt.drafting.prompt_lookup import PromptLookupDrafter

    if method == "layer-skip":
        assert profile is not None
        drafting = profile.drafting
        return LayerSkipDrafter(target, profile.skip_mask, drafting.gamma, drafting.tau)
    if method == "prompt-lookup":
        if profile is not None and profile.drafting.method == method:
            return PromptLookupDrafter(profile.drafting.gamma)
        return PromptLookupDrafter()
    return NoDrafter()


def generate_rounds(
    target: Target,
    ids: Sequence[int] | Any,
    *,
    profile: Profile | None = None,
    method: str | None = None,
    max_new_tokens: int = 128,
    options: SamplingOptions | None = None,
    engine: Engine | None = None,
) -> Iterator[Round]:
    """Decode `ids` round by round.

    Args:
        ids: prompt tokens: a list of ints, or a tensor of shape (1, T).
        profile: a mask with its γ and τ; None decodes plainly unless `method` says otherwise.
        engine: reuse one (it is emptied first); its capacity must suffice. None makes one.

    Raises:
        PromptError, ProfileError, UsageError: before the first round.
    """
    from skipopt.decoding import check_request, decode, new_engine
    from skipopt.sampling import SamplingOptions

    prompt = token_list(ids)
    if profile is not None:
        profile.check_model(target.architecture, target.depth, target.fingerprint)
    limits = check_request(target, prompt, max_new_tokens)
    drafter = make_drafter(target, resolve_method(profile, method), profile)
    if engine is None:
        engine = new_engine(target, prompt, limits)
    engine.rewind(0)
    return decode(engine, prompt, drafter, options or SamplingOptions(), limits)


def generate(
    target: Target,
    ids: Sequence[int] | Any,
    *,
    profile: Profile | None = None,
    method: str | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[Token]:
    """Decode `ids` token by token: `token.id`, `token.from_draft`. See `generate_rounds`."""
    from skipopt.sampling import SamplingOptions

    rounds = generate_rounds(
        target,
        ids,
        profile=profile,
        method=method,
        max_new_tokens=max_new_tokens,
        options=SamplingOptions(temperature, top_k, top_p, seed),
    )
    return (token for round_ in rounds for token in round_.tokens)


def token_list(ids: Sequence[int] | Any) -> list[int]:
    """A prompt as a plain list of ints.

    Raises:
        UsageError: a tensor that holds more than one sequence.
    """
    if isinstance(ids, Sequence):
        return list(ids)
    if ids.ndim == 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.ndim != 1:
        raise UsageError(f"ids must be one sequence, not a tensor of shape {tuple(ids.shape)}")
    return [int(i) for i in ids.tolist()]
