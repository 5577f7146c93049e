"""Paired, interleaved timing of several runners on the same prompts; keeps the raw samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from skipopt.rounds import Round, Statistics

if TYPE_CHECKING:
    import torch

Clock = Callable[[], float]
ProgressCallback = Callable[[float, float], None]
Guarantee = Literal["same tokens", "same distribution", "none"]

DEFAULT_REPEATS = 4  # even, so that every pair of runners is timed equally often in both orders
FIRST_TEXTS = 3  # prompts whose texts are timed in a fresh state too
LENGTHS = (32, 64, 160)  # new tokens at which the time since the request is told
MAX_ERROR_LENGTH = 300


def ignore_progress(done: float, total: float) -> None:
    """A `ProgressCallback` callback that does nothing."""


class Reached(NamedTuple):
    """How many new tokens there were, and the seconds since the request."""

    new_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Decoding:
    """One timed decoding.

    Attributes:
        tokens: the new tokens.
        prefill_seconds: from the request to the first round.
        decode_seconds: wall time of all rounds, Python code between forwards included.
        timed_tokens: the new tokens that were made in `decode_seconds`.
        timeline: the end of each round or step, in wall time: the making of drafters and quantized
            copies, the prefill and the capture of steps included.
        rounds: what each round did; empty where the runner does not show its rounds.
    """

    tokens: tuple[int, ...]
    prefill_seconds: float
    decode_seconds: float
    timed_tokens: int
    timeline: tuple[Reached, ...]
    rounds: tuple[Round, ...] = ()

    @property
    def total_seconds(self) -> float:
        """Wall time of the whole text."""
        return self.timeline[-1].seconds

    def seconds_to(self, new_tokens: int) -> float | None:
        """Wall time up to the end of the round that made this token; None in shorter texts."""
        return next(
            (each.seconds for each in self.timeline if each.new_tokens >= new_tokens), None
        )

    @property
    def seconds_per_token(self) -> float:
        return self.decode_seconds / self.timed_tokens

    @property
    def tokens_per_second(self) -> float:
        return self.timed_tokens / self.decode_seconds

    @property
    def statistics(self) -> Statistics | None:
        """Sums over rounds; None where the runner does not show its rounds."""
        return Statistics.of(self.rounds) if self.rounds else None


class Runner(Protocol):
    """One way to decode, under a name of its own among the runners that are timed together."""

    @property
    def name(self) -> str: ...

    @property
    def may_fail(self) -> bool:
        """Whether an error of this runner is recorded while the others go on."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """What is needed to run it again: mask, γ and τ, or arguments of `generate`."""
        ...

    @property
    def guarantee(self) -> Guarantee:
        """How its text relates to that of plain decoding by construction."""
        ...

    def warm_up(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> None:
        """Do what only the first decoding has to do: compile, capture, choose kernels."""
        ...

    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        """Decode one text; prefill and decoding are timed separately with `clock`."""
        ...

    def decode_fresh(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        """Like `decode`, with no step captured and no quantized copy made before."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One decoding by the runner of that name, with the indices of its prompt and repeat."""

    runner: str
    prompt: int
    repeat: int
    decoding: Decoding

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "repeat": self.repeat,
            "tokens": len(self.decoding.tokens),
            "timed_tokens": self.decoding.timed_tokens,
            "prefill_seconds": self.decoding.prefill_seconds,
            "decode_seconds": self.decoding.decode_seconds,
            "total_seconds": self.decoding.total_seconds,
            "seconds_to": {
                str(length): seconds
                for length in LENGTHS
                if (seconds := self.decoding.seconds_to(length)) is not None
            },
        }


def device_clock(device: torch.device) -> Clock:
    """A clock in seconds; an accelerator is synchronized before each reading."""
    import torch

    if device.type == "cpu":
        return time.perf_counter

    def read() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return read


def run_order(count: int, prompt: int, repeat: int) -> list[int]:
    """In which order `count` runners decode this prompt in this repeat.

    The order is rotated from prompt to prompt, so that no runner always follows the same other
    one, and reversed in every second repeat (ABBA), so that a machine that slows down steadily
    favors none of them.
    """
    order = [(prompt + i) % count for i in range(count)]
    return order[::-1] if repeat % 2 else order


class Timer:
    """Times runners on prompts, one repeat of all prompts at a time.

    Args:
        runners: their names must differ.
        prompts: token ids of each prompt.
        lengths: new tokens to decode for each prompt, the same for every runner.
        clock: seconds.

    Attributes:
        runners: those that take part in what is timed next (see `keep`).
        samples: everything timed so far, in the order it was run, but `first_texts`.
        first_texts: samples of texts decoded in a fresh state.
        errors: messages by runner name; these runners are not run any more.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        prompts: Sequence[Sequence[int]],
        lengths: Sequence[int],
        clock: Clock,
    ) -> None:
        self.runners = list(runners)
        self.prompts = prompts
        self.lengths = lengths
        self.clock = clock
        self.samples: list[Sample] = []
        self.first_texts: list[Sample] = []
        self.errors: dict[str, str] = {}
        self._repeat = 0

    @property
    def running(self) -> list[Runner]:
        """The runners without an error."""
        return [runner for runner in self.runners if runner.name not in self.errors]

    def keep(self, names: Sequence[str]) -> None:
        """Time only the runners of these names from now on; samples of the others are kept."""
        self.runners = [runner for runner in self.runners if runner.name in names]

    def exclude(self, name: str, reason: str) -> None:
        """Do not run this runner any more, with `reason` as its error."""
        self.errors[name] = reason

    def warm_up(self) -> None:
        """Let each runner decode the first prompt, untimed."""
        for runner in self.running:
            self.warm_up_runner(runner)

    def warm_up_runner(self, runner: Runner) -> None:
        """Let one runner decode the first prompt, untimed."""
        with self._recording_error(runner):
            runner.warm_up(self.prompts[0], self.lengths[0], self.clock)

    def run_first_texts(
        self,
        prompts: int,
        on_sample: Callable[[], None] = lambda: None,
        is_late: Callable[[], bool] = lambda: False,
    ) -> None:
        """Time every runner once on the first prompts, each text in a fresh state.

        Call it after something was decoded, so that no runner pays for what a process loads.

        Args:
            on_sample: called after each decoding.
            is_late: asked before each prompt; no more are decoded where it says yes.
        """
        for index in range(prompts):
            if is_late():
                return
            running = self.running
            for i in run_order(len(running), index, 0):
                self._time(running[i], index, 0, fresh=True)
                on_sample()

    def run(self, repeats: int, on_sample: Callable[[], None] = lambda: None) -> None:
        """Time every runner `repeats` times on every prompt.

        Args:
            repeats: even numbers balance the order of runners.
            on_sample: called after each decoding.
        """
        for _ in range(repeats):
            for _prompt in self.iter_repeat(on_sample):
                pass

    def iter_repeat(
        self,
        on_sample: Callable[[], None] = lambda: None,
        is_late: Callable[[], bool] = lambda: False,
    ) -> Iterator[int]:
        """Time every runner once on every prompt; `keep` and `exclude` may be called in between.

        Args:
            on_sample: called after each decoding.
            is_late: asked before each decoding; where it says yes, the repeat ends, and samples
                of the prompt that only some runners have decoded are dropped.

        Yields:
            The index of each prompt, after all runners have decoded it.
        """
        repeat, self._repeat = self._repeat, self._repeat + 1
        for index in range(len(self.prompts)):
            running, complete = self.running, len(self.samples)
            for i in run_order(len(running), index, repeat):
                if is_late():
                    del self.samples[complete:]
                    return
                if any(running[i] is each for each in self.runners):  # not dropped meanwhile
                    self._time(running[i], index, repeat)
                    on_sample()
            yield index

    def _time(self, runner: Runner, prompt: int, repeat: int, fresh: bool = False) -> None:
        samples = self.first_texts if fresh else self.samples
        decode = runner.decode_fresh if fresh else runner.decode
        with self._recording_error(runner):
            decoding = decode(self.prompts[prompt], self.lengths[prompt], self.clock)
            samples.append(Sample(runner.name, prompt, repeat, decoding))

    @contextmanager
    def _recording_error(self, runner: Runner) -> Iterator[None]:
        """Record an error of a runner that may fail; raise that of any other."""
        try:
            yield
        except Exception as error:
            if not runner.may_fail:
                raise
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.errors[runner.name] = text[:MAX_ERROR_LENGTH]
