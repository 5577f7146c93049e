"""Decodes several prompts together, round by round."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skipopt.decoding.api import resolve_method
from skipopt.decoding.setup import DecodingSetup, deferral, make_decoding, same_tokens
from skipopt.errors import UsageError
from skipopt.methods import MethodSpec
from skipopt.option_values import whole_number
from skipopt.rounds import Round

if TYPE_CHECKING:
    from skipopt.decoding.batch_loop import BatchText
    from skipopt.decoding.batch_pacing import BatchPacing
    from skipopt.decoding.loop import RowRecorder
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.drafting.deferred import DeferredDrafter
    from skipopt.logits_processing import Processor
    from skipopt.models.target import Target
    from skipopt.profile import Profile
    from skipopt.runtime.batch_engine import BatchEngine
    from skipopt.sampling import SamplingOptions

BATCH_METHODS = ("plain", "layer-skip", "prompt-lookup", "suffix")
REUSE = "reuse_exit_state"
DEFAULT_BATCH_SIZE = 8
OTHER_METHOD = "use plain, layer-skip, prompt-lookup or suffix, or decode one prompt at a time"


def batch_method(profile: Profile | None, method: str | None) -> MethodSpec:
    """The method asked for, else the profile's, else `plain`; see `resolve_method`.

    Raises:
        UsageError: it does not decode batches.
    """
    spec = resolve_method(profile, method)
    if (name := _not_in_batches(spec)) is not None:
        raise UsageError(f"{name} does not decode batches", hint=OTHER_METHOD)
    return spec


def _not_in_batches(spec: MethodSpec) -> str | None:
    """What does not decode batches; None if the method does."""
    if spec.name not in BATCH_METHODS:
        return spec.name
    if spec.options.get(REUSE, "no") != "no":
        return f"{spec.name} with {REUSE}"
    return None


def batch_reason(target: Target, profile: Profile | None, method: str | None) -> str | None:
    """Why prompts are decoded one after another; None where they are decoded together."""
    from skipopt.runtime.batch_engine import batch_unsupported_reason

    if (name := _not_in_batches(resolve_method(profile, method))) is not None:
        return f"{name} does not decode batches"
    return batch_unsupported_reason(target)


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One text to be made.

    Attributes:
        tokens: of the prompt.
        sampling: how its tokens are chosen.
        logits_processor, recorder: see `skipopt.generate_rounds`.
    """

    tokens: Sequence[int]
    max_new_tokens: int
    sampling: SamplingOptions
    logits_processor: Sequence[Processor] = ()
    recorder: RowRecorder | None = None


@dataclass(slots=True)
class BatchStatistics:
    """How a batch was decoded.

    Attributes:
        method: its name with options.
        batch_size: most texts that were decoded together.
        seconds: of all rounds, without the prefills.
        prefill_seconds: of all prompts.
        time_to_first_token: seconds until the end of the first round.
        new_tokens: of all texts.
        rounds: each is one target forward over all texts, or several for very large batches.
        drafting_rounds: those in which something was drafted.
        pauses: how often drafting was paused because it lost.
        round_seconds: pairs (rows of the target's forward, its seconds), one of each round.
    """

    method: str
    batch_size: int
    seconds: float = 0.0
    prefill_seconds: float = 0.0
    time_to_first_token: float | None = None
    new_tokens: int = 0
    rounds: int = 0
    drafting_rounds: int = 0
    pauses: int = 0
    round_seconds: list[tuple[int, float]] = field(default_factory=list, repr=False)

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all texts per second of decoding, prefills excluded."""
        return self.new_tokens / max(self.seconds, 1e-9)

    def add(self, rounds: Sequence[Round], verify_seconds: float, seconds: float) -> None:
        """Include a round of all texts."""
        drafted = sum(len(each.drafted) for each in rounds)
        self.rounds += 1
        self.drafting_rounds += drafted > 0
        self.new_tokens += sum(len(each.emitted) for each in rounds)
        self.seconds += seconds
        self.round_seconds.append((len(rounds) + drafted, verify_seconds))
        if self.time_to_first_token is None:
            self.time_to_first_token = self.prefill_seconds + seconds

    def costs(self) -> dict[int, float]:
        """v(n): median seconds of the target's forward over n rows."""
        from statistics import median

        by_rows: dict[int, list[float]] = {}
        for rows, seconds in self.round_seconds:
            by_rows.setdefault(rows, []).append(seconds)
        return {rows: median(by_rows[rows]) for rows in sorted(by_rows)}


class BatchDecoding:
    """The rounds of several texts: iterate over it.

    Each item is a mapping from the number of a request to what its round did. At most `batch_size`
    texts are decoded together; a text that ends leaves its place to the next request.

    Args:
        requests: their texts are those of `skipopt.generate_rounds` with the same prompt, method
            and sampling.
        profile: decode with it; None decodes plainly unless `method` is given.
        method: a name with options.
        memory: earlier texts to copy from; each text is added at its end.

    Attributes:
        statistics: of what was decoded so far.
        engine: runs the forwards.

    Raises:
        UsageError: no requests, a method that does not decode batches, or a batch size below 1.
        ModelError: the model cannot decode batches.
        PromptError, ProfileError: see `skipopt.generate_rounds`.
    """

    def __init__(
        self,
        target: Target,
        requests: Sequence[BatchRequest],
        *,
        profile: Profile | None = None,
        method: str | None = None,
        memory: DraftMemory | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        from skipopt.decoding.batch_pacing import BatchPacing
        from skipopt.runtime.batch_engine import check_batches

        batch_size = whole_number("batch_size", batch_size)
        if batch_size < 1:
            raise UsageError(f"batch_size must be 1 or more, not {batch_size}")
        if not requests:
            raise UsageError("no prompts are given", hint="give a list of one or more")
        if profile is not None:
            profile.check_model(target)
        if memory is not None:
            memory.check_target(target)
        self._target, self._profile, self._memory = target, profile, memory
        self._spec = batch_method(profile, method)
        check_batches(target)
        self._requests = requests
        with target.runtime.lock:
            self._setups = [self._setup(each) for each in requests]
        self.engine = self._new_engine(min(batch_size, len(requests)))
        self._waiting = deque(range(len(requests)))
        self._free = list(range(len(self.engine.texts)))[::-1]
        self._texts: dict[int, BatchText] = {}
        self._deferral = self._new_deferral()
        self._pacing: BatchPacing | None = None
        if all(self._same_tokens(number) for number in range(len(requests))):
            self._pacing = BatchPacing(self.engine.max_rows, len(self._free))
        self.statistics = BatchStatistics(str(self._spec), len(self._free))

    def leave(self, number: int) -> None:
        """End a text before its own end; nothing happens if it has ended."""
        text = self._texts.pop(number, None)
        if text is None:
            return
        self._free.append(text.place)
        if self._memory is not None:
            self._memory.add(text.state.tokens)

    def __iter__(self) -> Iterator[Mapping[int, Round]]:
        try:
            while self._waiting or self._texts:
                with self._target.runtime.lock:
                    self._admit()
                    found = self._round()
                for number, each in found.items():
                    if each.stop:
                        self.leave(number)
                yield found
        finally:
            for number in list(self._texts):
                self.leave(number)

    def _setup(self, request: BatchRequest) -> DecodingSetup:
        return make_decoding(
            self._target,
            self._spec,
            self._profile,
            request.sampling,
            memory=self._memory,
            defers=False,
        )

    def _same_tokens(self, number: int) -> bool:
        return same_tokens(self._setups[number].verifier, self._requests[number].sampling)

    def _new_deferral(self) -> DeferredDrafter | None:
        """Of all texts together; None if drafts begin at once."""
        parts = (self._target, self._spec, self._profile)
        found = [
            deferral(*parts, setup, request.sampling)
            for setup, request in zip(self._setups, self._requests, strict=True)
        ]
        return None if None in found else found[0]

    def _new_engine(self, places: int) -> BatchEngine:
        """An engine in which every text fits, wherever it is placed."""
        from skipopt.decoding.request import check_request
        from skipopt.runtime.batch_engine import BatchEngine

        sizes: list[int] = []
        for request, setup in zip(self._requests, self._setups, strict=True):
            limits = check_request(self._target, request.tokens, request.max_new_tokens)
            longest = len(request.tokens) + limits.max_new_tokens
            sizes.append(min(limits.context_limit, longest) + setup.drafter.max_extra_rows)
        if places < len(sizes):
            sizes = [max(sizes)] * places
        return BatchEngine(self._target, sizes)

    def _admit(self) -> None:
        """Begin waiting texts where there is a place."""
        began = time.perf_counter()
        while self._free and self._waiting:
            number = self._waiting.popleft()
            text = self._new_text(number, self._free.pop())
            text.begin()
            self._texts[number] = text
        self.statistics.prefill_seconds += time.perf_counter() - began

    def _new_text(self, number: int, place: int) -> BatchText:
        from skipopt.decoding.batch_loop import BatchText
        from skipopt.decoding.loop import new_state
        from skipopt.decoding.request import check_request

        request, setup = self._requests[number], self._setups[number]
        limits = check_request(self._target, request.tokens, request.max_new_tokens)
        state = new_state(
            self.engine.texts[place],
            request.tokens,
            request.sampling,
            limits,
            setup.verifier,
            request.logits_processor,
        )
        return BatchText(
            place,
            state,
            setup.drafter,
            setup.verifier,
            limits,
            len(request.tokens),
            request.recorder,
        )

    def _round(self) -> dict[int, Round]:
        from skipopt.decoding.batch_loop import decode_round

        clock = self._target.runtime.clock_without_capture(time.perf_counter)
        began = clock()
        numbers, texts = list(self._texts), list(self._texts.values())
        put_off = self._deferral is not None and not self._deferral.may_begin(self._tokens_left())
        depth = 0 if put_off else self._depth()
        made = decode_round(self.engine, texts, depth, put_off)
        if put_off:
            tokens = sum(len(each.emitted) for each in made.rounds)
            seconds = made.verify_seconds / len(texts)
            self._target.runtime.break_even.observe_plain(tokens, seconds)
        if self._pacing is not None:
            self._pacing.observe(made.rounds, made.draft_seconds, made.verify_seconds)
            self.statistics.pauses = self._pacing.pauses
        self.statistics.add(made.rounds, made.verify_seconds, clock() - began)
        return dict(zip(numbers, made.rounds, strict=True))

    def _depth(self) -> int | None:
        """Most tokens of a draft; None for what the method drafts."""
        if self._pacing is None:
            return None
        texts = self._texts.values()
        gamma = max(text.drafter.max_extra_rows for text in texts)
        return self._pacing.depth(len(texts), gamma)

    def _tokens_left(self) -> int:
        """Most tokens that all texts may still get."""
        waiting = sum(self._requests[number].max_new_tokens for number in self._waiting)
        return waiting + sum(text.room[0] for text in self._texts.values())
