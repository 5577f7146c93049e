"""The decoding loop: prefill, then draft → verify → commit, as a generator of rounds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple, Protocol

from skipopt.decoding.finite import check_processed, first_not_finite, not_finite
from skipopt.decoding.request import Limits
from skipopt.decoding.vocabulary_sizes import check_penalties
from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.tree import DraftTree
from skipopt.errors import ModelError, SkipoptError
from skipopt.logits_processing import LogitsProcessing, Processor
from skipopt.one_thread import one_thread
from skipopt.rounds import Round
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions, TokenSampler, with_numbers
from skipopt.verification.match import Match
from skipopt.verification.target_rows import TargetRows

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.verification.base import Verifier


def decode(
    engine: Engine,
    prompt: Sequence[int],
    drafter: Drafter,
    options: SamplingOptions,
    limits: Limits,
    verifier: Verifier | None = None,
    logits_processor: Sequence[Processor] = (),
    recorder: Recorder | None = None,
) -> Iterator[Round]:
    """Decode round by round until a limit is reached.

    The engine's cache must be empty, or hold a beginning of the prompt without its last token.

    Each round is one draft and one target forward over the current token and the drafted ones.
    The prompt's last token is the current token of the first round.

    Args:
        verifier: for all rounds; `Match` by default. A verifier that changed between rounds would
            bias samples, since drafts may depend on the noise of later positions.
        logits_processor: applied to the target's logits after those of `options` that read the
            tokens before, and before temperature and its kind; see `LogitsProcessing`.
        recorder: takes in the rows of each emitted token.

    Raises:
        UsageError: something in `logits_processor` is not supported; before the first round.
        PromptError: a penalty on a token that the model does not predict.
    """
    verifier = verifier or Match()
    state = new_state(engine, prompt, options, limits, verifier, logits_processor)
    return _decode(state, drafter, verifier, limits, recorder)


def new_state(
    engine: Engine,
    prompt: Sequence[int],
    options: SamplingOptions,
    limits: Limits,
    verifier: Verifier,
    logits_processor: Sequence[Processor] = (),
) -> DraftState:
    """The state of a text before its first round; arguments and errors as for `decode`."""
    check_penalties(engine.target, prompt, options)
    device = engine.target.device
    sampler = TokenSampler(options, device, verifier.coupled)
    first = options.processors(len(prompt), limits.eos_ids, device)
    processing = LogitsProcessing([*first, *logits_processor])
    return DraftState(list(prompt), engine, sampler, processing)


def _decode(
    state: DraftState,
    drafter: Drafter,
    verifier: Verifier,
    limits: Limits,
    recorder: Recorder | None,
) -> Iterator[Round]:
    engine, prompt = state.engine, tuple(state.tokens)
    engine.keeps_hidden = drafter.wants_hidden
    lock = engine.target.runtime.lock  # other threads run the model between rounds
    with lock:
        prefill(engine, prompt)
    prompt_tokens = len(prompt)
    while True:
        with lock:
            outcome, stop = _decode_round(
                state, drafter, verifier, prompt_tokens, limits, recorder
            )
            drafter.observe(outcome)
        yield to_round(outcome, stop)
        if stop:
            return


def _decode_round(
    state: DraftState,
    drafter: Drafter,
    verifier: Verifier,
    prompt_tokens: int,
    limits: Limits,
    recorder: Recorder | None,
) -> tuple[RoundOutcome, str | None]:
    """One round, and the stop reason (None if the text continues)."""
    room, reason = room_left(state, prompt_tokens, limits)
    number = len(state.tokens) - prompt_tokens + 1  # of the next new token
    if number > 1:
        _recompute_at_border(state)
    # A round emits at most one token more than the depth of its draft.
    depth = _depth_before_border(state, room - 1)
    draft, found, seconds = _draft_and_verify(state, drafter, verifier, depth, number, limits)
    bad = found.first_bad
    if bad is not None and state.sampler.coupled:
        # A draft's keys and values that are not numbers spoil even rows that do not see them.
        state.engine.clear(len(state.tokens) - 1)
        draft = DraftTree(forwards=draft.forwards)
        found = _verify(state, draft, verifier, limits)
        bad = found.first_bad
    if bad is not None:
        raise _not_finite(state, number + bad)
    return end_round(state, draft, found, seconds, limits, (room, reason), recorder)


def end_round(
    state: DraftState,
    draft: DraftTree,
    found: Verified,
    seconds: tuple[float, float],
    limits: Limits,
    room: tuple[int, str],
    recorder: Recorder | None,
) -> tuple[RoundOutcome, str | None]:
    """Add what was found to the text; the outcome, and the stop reason or None.

    Args:
        seconds: of the draft and of the verification.
        room: see `room_left`.
    """
    path, emitted = found.path, found.emitted
    if state.processing and not state.sampler.greedy:
        check_processed(found.rows, [0, *(1 + i for i in path)][: len(emitted)])
    if recorder is not None:
        recorder.add(found.rows, path, emitted)
    commit(state, path, emitted)
    outcome = RoundOutcome(draft, path, emitted, found.logits, state.engine.hidden, *seconds)
    if emitted[-1] in limits.eos_ids:
        return outcome, "eos"
    return outcome, room[1] if len(emitted) == room[0] else None


def _draft_and_verify(
    state: DraftState,
    drafter: Drafter,
    verifier: Verifier,
    max_depth: int,
    number: int,
    limits: Limits,
) -> tuple[DraftTree, Verified, tuple[float, float]]:
    """The draft, what is accepted of it, and (draft seconds, verification seconds).

    Drafters use these times as costs, so the capture of steps, done once, is not included.
    """
    clock = state.engine.target.runtime.clock_without_capture(time.perf_counter)
    began = clock()
    draft = _propose(state, drafter, max_depth, number)
    drafted = clock()
    found = _verify(state, draft, verifier, limits)
    return draft, found, (drafted - began, clock() - drafted)


class Verified(NamedTuple):
    """What the target says of a draft.

    Attributes:
        logits: of all rows.  # (1 + B + E, V)
        rows: those of the current token and of the drafted ones, processed.
        path: accepted tokens, by index.
        emitted: the tokens of this round.
        first_bad: index of the first of these that was chosen from logits that are not numbers.
    """

    logits: Tensor
    rows: TargetRows
    path: tuple[int, ...]
    emitted: tuple[int, ...]
    first_bad: int | None


def _verify(state: DraftState, draft: DraftTree, verifier: Verifier, limits: Limits) -> Verified:
    """Run the target, and compare."""
    return compare(state, draft, verifier, limits, run_target(state, draft))


def compare(
    state: DraftState, draft: DraftTree, verifier: Verifier, limits: Limits, logits: Tensor
) -> Verified:
    """What the target's logits say of a draft."""
    largest = state.sampler.greedy and isinstance(verifier, Match)
    with one_thread():
        own = logits[: len(draft.tokens) + 1]
        own = own if largest else with_numbers(own)
        rows = TargetRows(own, state.processing, draft, state.tokens, limits.eos_ids)
        result = verifier(draft, rows, state.sampler, len(state.tokens))
    accepted = [draft.tokens[i] for i in result.path]
    emitted = _until_eos((*accepted, result.last_token), limits)
    chosen_from = [0, *(1 + i for i in result.path)][: len(emitted)]
    bad = first_not_finite(logits, chosen_from, emitted, largest)
    return Verified(logits, rows, result.path, emitted, bad)


def _propose(state: DraftState, drafter: Drafter, max_depth: int, number: int) -> DraftTree:
    try:
        return drafter.propose(state, max_depth)
    except Exception as error:
        if isinstance(error, SkipoptError) or _target_has_numbers(state):
            raise
        raise _not_finite(state, number) from error


def _not_finite(state: DraftState, number: int) -> ModelError:
    """The error for a new token; later texts use the same cache, so it is cleared."""
    state.engine.clear(0)
    return not_finite(number, state.engine.target.dtype)


def _target_has_numbers(state: DraftState) -> bool:
    """Whether the next token can be chosen; true if the target cannot be run."""
    state.engine.rewind(len(state.tokens) - 1)
    try:
        logits = run_target(state, DraftTree())
    except Exception:
        return True
    return first_not_finite(logits, [0], [0], largest=False) is None


class Recorder(Protocol):
    """Takes in what tokens were chosen from."""

    def add(self, rows: TargetRows, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Take in the rows of one round: the first emitted token was chosen from row 0, those
        after it from the rows of the accepted tokens in `path`.
        """


class RowRecorder:
    """The target's logits of each emitted token.

    Attributes:
        logits: as the target returned them.  # (V,) float32 each
        scores: processed by the logits processors.  # (V,) float32 each
    """

    def __init__(self) -> None:
        self.logits: list[Tensor] = []
        self.scores: list[Tensor] = []

    def add(self, rows: TargetRows, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Take in the rows that the tokens of one round were chosen from."""
        for node in (-1, *path)[: len(emitted)]:
            self.logits.append(rows.raw(node + 1).float().clone())
            self.scores.append(rows[node + 1].float().clone())


def prefill(engine: Engine, prompt: Sequence[int]) -> None:
    """Fill the cache with all prompt tokens except the last, after those that it holds.

    Around images, tokens may attend to later ones, so the last token is there too.
    """
    if engine.prompt_inputs or engine.rope_borders.just_passed(len(prompt)):
        _prefill_whole(engine, prompt)
    else:
        engine.prefill(list(prompt[engine.position : -1]))


def _prefill_whole(engine: Engine, tokens: Sequence[int]) -> None:
    """The same in one forward with the last token, which is read again afterwards."""
    engine.prefill(list(tokens))
    engine.rewind(len(tokens) - 1)


def _recompute_at_border(state: DraftState) -> None:
    """Fill the cache anew where `generate` of transformers does."""
    if state.engine.rope_borders.recomputes(len(state.tokens)):
        state.engine.rewind(0)
        _prefill_whole(state.engine, state.tokens)


def _depth_before_border(state: DraftState, depth: int) -> int:
    """At most `depth`, so that all rows of the verification have the same frequencies."""
    length = len(state.tokens)
    border = state.engine.rope_borders.next(length)
    return depth if border is None else min(depth, border - length)


def run_target(state: DraftState, draft: DraftTree) -> Tensor:
    """Logits of one target forward over the current token, B drafted tokens and E extra rows.

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
    attends = draft.attends()
    if draft.extra_rows is None:
        return state.engine.step_tree(tokens, depths, attends)
    extra = draft.extra_rows
    attends = torch.cat([pad(attends, (0, len(extra.depths))), extra.attends.cpu()])
    if extra.inputs.is_floating_point():
        inputs = torch.cat([state.engine.embed(tokens), extra.inputs])
    else:
        inputs = torch.cat([torch.tensor(tokens, device=extra.inputs.device), extra.inputs])
    return state.engine.step_tree(inputs, [*depths, *extra.depths], attends)


def commit(state: DraftState, path: Sequence[int], emitted: Sequence[int]) -> None:
    """Keep the accepted path in the cache and append the emitted tokens to the text.

    The last emitted token is the next current token; it is not in the cache yet.
    """
    kept = [0, *(1 + i for i in path)][: len(emitted)]
    state.engine.commit(len(state.tokens) - 1, kept)
    state.tokens.extend(emitted)


def to_round(outcome: RoundOutcome, stop: str | None) -> Round:
    """What a round did."""
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
        draft.put_off,
    )


def room_left(state: DraftState, prompt_tokens: int, limits: Limits) -> tuple[int, str]:
    """How many tokens may still be emitted, and the stop reason once they have been."""
    length = len(state.tokens)
    new_tokens = limits.max_new_tokens - (length - prompt_tokens)
    context = limits.context_limit - length
    return (new_tokens, "length") if new_tokens <= context else (context, "context")


def _until_eos(tokens: tuple[int, ...], limits: Limits) -> tuple[int, ...]:
    """The tokens up to and including the first end-of-text token."""
    end = next((i for i, token in enumerate(tokens) if token in limits.eos_ids), len(tokens))
    return tokens[: end + 1]
