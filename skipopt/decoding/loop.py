"""prefill → draft → verify → commit, as a generator of rounds.

Knows nothing of text or printing; drafters and verification are handed in.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.tree import DraftTree
from skipopt.errors import PromptError, UsageError
from skipopt.models.target import Target
from skipopt.rounds import Round
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.verification.match import Match

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.verification.base import Verifier


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


def new_engine(target: Target, prompt: Sequence[int], limits: Limits, rows: int = 0) -> Engine:
    """An engine whose cache holds the longest text this decoding can reach.

    Args:
        rows: most rows that a draft puts beside the text (`Drafter.rows`).
    """
    return Engine(target, min(limits.context_limit, len(prompt) + limits.max_new_tokens) + rows)


def decode(
    engine: Engine,
    prompt: Sequence[int],
    drafter: Drafter,
    options: SamplingOptions,
    limits: Limits,
    verifier: Verifier | None = None,
) -> Iterator[Round]:
    """Decode round by round until a limit is met. The engine must be empty.

    Every round is one draft and one target forward over the current token and the drafts. The
    prompt's last token is the first current token, so the first round drafts too.

    Args:
        verifier: one for the whole text: drafts may look at the noise of positions to come, so
            choosing round by round would bias what is sampled. None: by matching.
    """
    verifier = verifier or Match()
    sampler = TokenSampler(options, engine.target.device, verifier.coupled)
    engine.keeps_hidden = drafter.wants_hidden
    # Capturing a step is paid for once: who learns from a round's times must not see it.
    clock = engine.target.runtime.clock_without_capture(time.perf_counter)
    prefill(engine, prompt)
    state = DraftState(list(prompt), engine, sampler)
    first = len(prompt)
    while True:
        room = _room(state, first, limits)
        began = clock()
        # A round emits one token more than its draft is deep.
        draft = drafter.propose(state, room - 1)
        drafted = clock()
        logits = run_target(state, draft)
        verdict = verifier(draft, logits[: len(draft.tokens) + 1], sampler, len(state.tokens))
        done = clock()
        accepted = [draft.tokens[i] for i in verdict.path]
        emitted, stop = _cut((*accepted, verdict.last_token), room, limits)
        commit(state, verdict.path, emitted)
        outcome = RoundOutcome(
            draft, verdict.path, emitted, logits, engine.hidden, drafted - began, done - drafted
        )
        drafter.observe(outcome)
        if stop == "room":
            stop = "length" if len(state.tokens) - first >= limits.max_new_tokens else "context"
        yield _round(outcome, stop)
        if stop:
            return


def prefill(engine: Engine, prompt: Sequence[int]) -> None:
    """Everything but the prompt's last token goes into the cache."""
    engine.prefill(list(prompt[:-1]))


def run_target(state: DraftState, draft: DraftTree) -> Tensor:
    """One forward of the whole model over current token, drafts and side rows.

    # (1 + B + E, V)
    """
    with draft.verify_patch or nullcontext():
        if draft.is_chain and draft.extra_rows is None:
            return state.engine.step([state.tokens[-1], *draft.tokens])
        return _run_tree(state, draft)


def _run_tree(state: DraftState, draft: DraftTree) -> Tensor:
    import torch
    from torch.nn.functional import pad

    tokens = [state.tokens[-1], *draft.tokens]
    depths = [0, *draft.depths()]
    sees = draft.attends()
    if draft.extra_rows is None:
        return state.engine.step_tree(tokens, depths, sees)
    side = draft.extra_rows
    sees = torch.cat([pad(sees, (0, len(side.depths))), side.attends.cpu()])
    if side.inputs.is_floating_point():
        inputs = torch.cat([state.engine.embed(tokens), side.inputs])
    else:
        inputs = torch.cat([torch.tensor(tokens, device=side.inputs.device), side.inputs])
    return state.engine.step_tree(inputs, [*depths, *side.depths], sees)


def commit(state: DraftState, path: Sequence[int], emitted: Sequence[int]) -> None:
    """Keep the emitted tokens; the last of them is the new current token, not yet cached."""
    kept = [0, *(1 + i for i in path)][: len(emitted)]
    state.engine.keep(len(state.tokens) - 1, kept)
    state.tokens.extend(emitted)


def _round(outcome: RoundOutcome, stop: str | None) -> Round:
    draft = outcome.draft
    return Round(
        draft.tokens,
        len(outcome.path),
        outcome.emitted,
        draft.forwards,
        outcome.draft_seconds,
        outcome.verify_seconds,
        stop,
        draft.parents,
        outcome.path,
        draft.sources,
    )


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
