"""prefill → draft → verify → commit, as a generator of rounds.

Knows nothing of text or printing; drafters and verification are handed in.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from skipopt.drafting.protocol import Drafter, DraftState
from skipopt.drafting.tree import DraftTree
from skipopt.errors import PromptError, UsageError
from skipopt.models.target import Target
from skipopt.rounds import Round
from skipopt.runtime.engine import Engine
from skipopt.sampling import Sampler, SamplingOptions
from skipopt.verifying.chain import Verdict, verify_chain


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a text ends: new tokens, the context, end-of-text tokens."""

    max_new_tokens: int
    context_limit: int
    eos_ids: Collection[int] = ()


def check_request(target: Target, prompt: Sequence[int], max_new_tokens: int) -> Limits:
    """The limits of a decoding that can be begun.

    Raises:
        PromptError: the prompt is empty or leaves no room in the context.
        UsageError: max_new_tokens < 1.
    """
    if max_new_tokens < 1:
        raise UsageError(f"max-new-tokens must be 1 or more, not {max_new_tokens}")
    if not prompt:
        raise PromptError("the prompt is empty", hint="give at least one token of text")
    if len(prompt) >= target.context_limit:
        raise PromptError(
            f"the prompt has {len(prompt)} tokens, but the model's context is "
            f"{target.context_limit}",
            hint="shorten the prompt",
        )
    return Limits(max_new_tokens, target.context_limit, target.eos_ids)


def new_engine(target: Target, prompt: Sequence[int], limits: Limits) -> Engine:
    """An engine whose cache holds the longest text this decoding can reach."""
    return Engine(target, min(limits.context_limit, len(prompt) + limits.max_new_tokens))


def decode(
    engine: Engine,
    prompt: Sequence[int],
    drafter: Drafter,
    options: SamplingOptions,
    limits: Limits,
) -> Iterator[Round]:
    """Decode round by round until a limit is met. The engine must be empty.

    Every round is one draft and one target forward over the current token and the drafts. The
    prompt's last token is the first current token, so the first round drafts too.
    """
    sampler = Sampler(options, engine.target.device)
    prefill(engine, prompt)
    state = DraftState(list(prompt), engine, sampler)
    first = len(prompt)
    while True:
        room = _room(state, first, limits)
        began = time.perf_counter()
        # A round emits one token more than it drafts.
        draft = drafter.propose(state, room - 1)
        drafted = time.perf_counter()
        verdict = verify(state, draft)
        done = time.perf_counter()
        emitted, stop = _cut((*draft.tokens[: verdict.accepted], verdict.bonus), room, limits)
        commit(state, emitted)
        drafter.observe(verdict.accepted, len(draft.tokens))
        if stop == "room":
            stop = "length" if len(state.tokens) - first >= limits.max_new_tokens else "context"
        yield Round(
            draft.tokens,
            verdict.accepted,
            emitted,
            draft.forwards,
            drafted - began,
            done - drafted,
            stop,
        )
        if stop:
            return


def prefill(engine: Engine, prompt: Sequence[int]) -> None:
    """Everything but the prompt's last token goes into the cache."""
    engine.prefill(list(prompt[:-1]))


def verify(state: DraftState, draft: DraftTree) -> Verdict:
    """One forward of the whole model over the current token and the drafts."""
    logits = state.engine.step([state.tokens[-1], *draft.tokens])
    return verify_chain(draft, logits, state.sampler)


def commit(state: DraftState, emitted: Sequence[int]) -> None:
    """Keep the emitted tokens; the last of them is the new current token, not yet cached."""
    state.tokens.extend(emitted)
    state.engine.rewind(len(state.tokens) - 1)


def _room(state: DraftState, first: int, limits: Limits) -> int:
    """Tokens that may still be emitted."""
    so_far = len(state.tokens)
    return min(limits.max_new_tokens - (so_far - first), limits.context_limit - so_far)


def _cut(tokens: tuple[int, ...], room: int, limits: Limits) -> tuple[tuple[int, ...], str | None]:
    """The tokens up to an end-of-text, and why the text ends here, if it does."""
    for i, token in enumerate(tokens):
        if token in limits.eos_ids:
            return tokens[: i + 1], "eos"
    return tokens, "room" if len(tokens) >= room else None
