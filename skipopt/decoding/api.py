"""Generate tokens with a method by name, or with a profile."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from skipopt.decoding.setup import make_decoding
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import ProfileError, UsageError
from skipopt.methods import MethodSpec, parse_method
from skipopt.profile import Profile
from skipopt.rounds import Round, Token

if TYPE_CHECKING:
    from skipopt.decoding.loop import Recorder
    from skipopt.decoding.prefix_cache import PrefixCache
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.logits_processing import Processor
    from skipopt.models.target import Target
    from skipopt.online.config import OnlineConfig
    from skipopt.online.state import OnlineState
    from skipopt.runtime.engine import Engine
    from skipopt.runtime.prompt_inputs import PromptInputs
    from skipopt.sampling import SamplingFields, SamplingOptions


ONE_PROMPT = "call it once for each prompt, in a loop"


def resolve_method(
    profile: Profile | None, method: str | None, tuning: bool = False
) -> MethodSpec:
    """The method asked for, else the profile's, else `plain`.

    A profile that says `enabled: false` decodes plainly unless a method is asked for by name.

    Args:
        tuning: the method is tuned while decoding: it is then `layer-skip`, whatever the profile's
            method, and a profile is optional.

    Raises:
        UsageError: an unknown method, one that needs a mask without a profile that has one (then
            also an unknown option), or one that cannot be tuned.
    """
    if tuning:
        return _tunable(method)
    if method is None:
        active = profile is not None and profile.enabled
        method = profile.drafting.method if profile is not None and active else "plain"
    spec = parse_method(method)
    if spec.needs_mask and (profile is None or not profile.has_mask):
        check_options(spec)  # a misspelled option may be one with which no mask is needed
        raise UsageError(
            f"{spec.name} needs a mask", hint="give one with --profile, made by `skipopt search`"
        )
    return spec


def check_options(spec: MethodSpec) -> None:
    """Check names and types of a method's options and of its verifier's, without a model.

    Raises:
        UsageError: an option that the method does not have, or a value of the wrong type.
    """
    if not spec.options:
        return
    from skipopt.drafting.registry import read_drafter_options
    from skipopt.verification.registry import read_verifier, split_options

    for_verifier, own = split_options(spec.options)
    if for_verifier:
        read_verifier(for_verifier, default="match")
    read_drafter_options(MethodSpec(spec.name, own))


def load_profile(path: str | Path) -> Profile:
    """Read a profile, and check the options of its method too.

    Raises:
        ProfileError: as `Profile.load`, or `drafting.method` has options that the method lacks.
    """
    profile = Profile.load(path)
    method = profile.drafting.method
    try:
        check_options(parse_method(method))
    except UsageError as error:
        raise ProfileError(
            f"{path}: drafting.method is {method}: {error}", hint=error.hint
        ) from None
    return profile


def profile_draft_config(target: Target, spec: MethodSpec, profile: Profile | None) -> DraftConfig:
    """The part of the profile's draft config that the method uses on this machine.

    Options of the method (`quant`, `window`, …) replace the profile's.
    """
    from skipopt.runtime.draft_mode import supported_config

    if profile is None or not spec.takes_draft_config:
        return UNCHANGED
    return supported_config(target, profile.draft_config.replaced_by(spec.options))


def _tunable(method: str | None) -> MethodSpec:
    from skipopt.drafting.tunable import METHOD, check_tunable

    spec = parse_method(method or METHOD)
    check_tunable(spec)
    return spec


def new_online_state(
    target: Target,
    *,
    profile: Profile | None = None,
    method: str | None = None,
    config: OnlineConfig | None = None,
) -> OnlineState:
    """A fresh state for tuning mask, γ and τ while generating; it can be used for many texts.

    Args:
        profile: where to start; None starts with every second layer skipped.
        method: `layer-skip`, with γ and τ as options.
        config: settings of the tuning, its share of the time and its seed included.

    Raises:
        ProfileError: the profile is for another model.
        UsageError: a method that cannot be tuned, or a value out of range.
    """
    from skipopt.drafting.tunable import begin_tuning
    from skipopt.online.config import OnlineConfig

    if profile is not None:
        profile.check_model(target)
    return begin_tuning(target, _tunable(method), profile, config or OnlineConfig())


def generate_rounds(
    target: Target,
    ids: Sequence[int] | Any,
    *,
    profile: Profile | None = None,
    method: str | None = None,
    max_new_tokens: int = 128,
    options: SamplingOptions | None = None,
    engine: Engine | None = None,
    online_state: OnlineState | None = None,
    memory: DraftMemory | None = None,
    logits_processor: Sequence[Processor] = (),
    recorder: Recorder | None = None,
    prefix_cache: PrefixCache | None = None,
    prompt_inputs: PromptInputs | None = None,
) -> Iterator[Round]:
    """Decode `ids` round by round.

    Args:
        ids: prompt tokens: a list of ints, or a tensor of shape (1, T).
        profile: decode with it; None decodes plainly unless `method` is given.
        method: a name with options, as `methods.parse_method` reads it.
        engine: one to reuse, of sufficient capacity; its cache is emptied. None makes one.
        online_state: tune mask, γ and τ meanwhile, starting from this state (`new_online_state`);
            for one text at a time.
        memory: earlier texts, which methods that copy also copy from. Prompt and new tokens are
            added when the last round is over, and when the caller stops before.
        logits_processor: logits processors of transformers, or any functions of the ids before a
            token, (1, T), and its scores, (1, V), that return scores. They are applied after the
            penalties of `options` and before its temperature, each to the path of the draft tree
            that a token belongs to.
        recorder: takes in the rows of each emitted token, such as `LogprobRecorder`.
        prefix_cache: keys and values of the latest text; what the prompt has in common with it is
            not read again. In place of `engine`.
        prompt_inputs: what the first forward reads beside the prompt's tokens; see
            `decoding.images`.

    Raises:
        PromptError, ProfileError, UsageError: before the first round.
    """
    from skipopt.decoding.loop import decode
    from skipopt.decoding.request import check_request, new_engine
    from skipopt.runtime.prompt_inputs import TOKENS_ONLY
    from skipopt.sampling import SamplingOptions

    prompt = token_list(ids)
    if profile is not None:
        profile.check_model(target)
    if memory is not None:
        memory.check_target(target)
    limits = check_request(target, prompt, max_new_tokens)
    options = options or SamplingOptions()
    spec = resolve_method(profile, method, tuning=online_state is not None)
    with target.runtime.lock:
        setup = make_decoding(target, spec, profile, options, online_state, memory)
        extra = setup.drafter.max_extra_rows
        if prefix_cache is not None:
            engine = prefix_cache.engine_for(target, prompt, limits, extra)
        elif engine is None:
            engine = new_engine(target, prompt, limits, extra)
    if prefix_cache is None:
        engine.rewind(0)
    engine.prompt_inputs = prompt_inputs or TOKENS_ONLY
    rounds = decode(
        engine,
        prompt,
        setup.drafter,
        options,
        limits,
        setup.verifier,
        logits_processor,
        recorder,
    )
    if prefix_cache is not None:
        rounds = prefix_cache.followed(rounds, prompt)
    return rounds if memory is None else _remembered(rounds, prompt, memory)


def _remembered(
    rounds: Iterator[Round], prompt: Sequence[int], memory: DraftMemory
) -> Iterator[Round]:
    """The rounds; their text is added to the memory at the end, also if it ends early."""
    tokens = list(prompt)
    try:
        for each in rounds:
            tokens += each.emitted
            yield each
    finally:
        memory.add(tokens)


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
    memory: DraftMemory | None = None,
    logits_processor: Sequence[Processor] = (),
    **sampling: Unpack[SamplingFields],
) -> Iterator[Token]:
    """Decode `ids` token by token: `token.id`, `token.from_draft`. See `generate_rounds`.

    Args:
        sampling: more fields of `SamplingOptions`, such as `repetition_penalty=1.1`.
    """
    from skipopt.sampling import SamplingOptions

    rounds = generate_rounds(
        target,
        ids,
        profile=profile,
        method=method,
        max_new_tokens=max_new_tokens,
        options=SamplingOptions(temperature, top_k, top_p, seed, **sampling),
        memory=memory,
        logits_processor=logits_processor,
    )
    return (token for round_ in rounds for token in round_.tokens)


def token_list(ids: Sequence[int] | Any) -> list[int]:
    """Prompt ids as a list of ints.

    Args:
        ids: of any library, also what a tokenizer or `apply_chat_template` returns; one sequence
            in a list or tensor of sequences is taken out of it.

    Raises:
        UsageError: more than one sequence, a padded one, or anything but integers.
    """
    given: Any = ids
    if isinstance(given, Mapping) and "input_ids" in given:
        return _without_padding(given)
    if _is_chat(given):
        raise UsageError(
            "chat messages are given in place of token ids",
            hint="call skipopt.stream_generate, or tokenizer.apply_chat_template",
        )
    if isinstance(given, list | tuple) and len(given) == 1 and not hasattr(given[0], "__index__"):
        given = given[0]
    if hasattr(given, "ndim"):
        if given.ndim == 2 and given.shape[0] == 1:
            given = given[0]
        if given.ndim != 1:
            shape = tuple(given.shape)
            raise UsageError(
                f"ids must be one sequence, not a tensor of shape {shape}", hint=ONE_PROMPT
            )
        given = given.tolist()
    if _is_batch(given):
        raise UsageError(f"{len(given)} prompts are given, not one", hint=ONE_PROMPT)
    try:
        if isinstance(given, str | bytes | bytearray) or any(isinstance(i, bool) for i in given):
            raise TypeError
        return [operator.index(i) for i in given]
    except TypeError:
        raise UsageError(
            f"token ids must be a list of integers, not {reprlib.repr(ids)}",
            hint="give tokenizer(text).input_ids; for text, call skipopt.stream_generate",
        ) from None


def _is_chat(given: Any) -> bool:
    first = given[0] if isinstance(given, list | tuple) and given else None
    return isinstance(first, Mapping) and "role" in first


def _is_batch(given: Any) -> bool:
    """Whether this is a list of several texts, chats or sequences of ids."""
    parts = (str, list, tuple, Mapping)
    return (
        isinstance(given, list | tuple)
        and len(given) > 1
        and all(isinstance(each, parts) or getattr(each, "ndim", 0) == 1 for each in given)
    )


def _without_padding(encoded: Mapping[str, Any]) -> list[int]:
    """The ids in what a tokenizer returns.

    Raises:
        UsageError: as `token_list`.
    """
    attended = encoded.get("attention_mask")
    if attended is not None and 0 in token_list(attended):
        raise UsageError("the prompt is padded", hint="encode one prompt, without padding")
    return token_list(encoded["input_ids"])
