"""Paired, interleaved timing of contenders on the same prompts, raw samples kept.

Knows nothing of what a contender does, of ratios or of printing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from skipopt.rounds import Statistics

if TYPE_CHECKING:
    import torch

Clock = Callable[[], float]
Progress = Callable[[float, float], None]
Promise = Literal["same tokens", "same distribution", "nothing"]


def unseen(done: float, total: float) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """One timed decoding.

    Attributes:
        tokens: the new tokens.
        prefill_seconds: from the request to the moment decoding begins.
        decode_seconds: all wall time after that, the host's own work included.
        timed_tokens: the new tokens that `decode_seconds` paid for.
        statistics: sums over rounds, where the contender shows its rounds.
    """

    tokens: tuple[int, ...]
    prefill_seconds: float
    decode_seconds: float
    timed_tokens: int
    statistics: Statistics | None = None

    @property
    def seconds_per_token(self) -> float:
        return self.decode_seconds / self.timed_tokens


class Runner(Protocol):
    """One way to decode, as the timer sees it.

    `may_fail`: an error of this contender is noted, and the others go on without it.
    """

    @property
    def name(self) -> str: ...

    @property
    def may_fail(self) -> bool: ...

    @property
    def settings(self) -> dict[str, Any]:
        """What a reader needs to repeat it: γ, τ, the mask, an exit layer."""
        ...

    @property
    def promise(self) -> Promise:
        """How its text stands to plain decoding's."""
        ...

    def warm_up(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> None:
        """Everything that only the first decoding pays for."""
        ...

    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        """Prefill and decoding timed apart by `clock`."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """A decoding and when it was made."""

    contender: str
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
        }


def device_clock(device: torch.device) -> Clock:
    """Seconds; an accelerator has finished its queued work before each reading."""
    import torch

    if device.type == "cpu":
        return time.perf_counter

    def read() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return read


def run_order(count: int, prompt: int, repeat: int) -> list[int]:
    """Which contender goes first, second, … for this prompt and repeat.

    Rotated from prompt to prompt, so that nobody always follows the same one, and reversed in
    every other repeat (ABBA), so that a machine slowing down steadily favours nobody.
    """
    order = [(prompt + i) % count for i in range(count)]
    return order[::-1] if repeat % 2 else order


class Timer:
    """Runs contenders over prompts, a repeat at a time.

    Args:
        prompts: token ids of each prompt.
        lengths: new tokens to decode for each prompt; the same for every contender.

    Attributes:
        samples: everything timed so far, in the order it was run.
        errors: what went wrong, by the name of a contender that may fail.
    """

    def __init__(
        self,
        contenders: Sequence[Runner],
        prompts: Sequence[Sequence[int]],
        lengths: Sequence[int],
        clock: Clock,
    ) -> None:
        self.contenders = list(contenders)
        self.prompts = prompts
        self.lengths = lengths
        self.clock = clock
        self.samples: list[Sample] = []
        self.errors: dict[str, str] = {}
        self._repeat = 0

    def warm_up(self) -> None:
        """Each contender decodes the first prompt, untimed."""
        for contender in self._running():
            with _record_errors(contender, self.errors):
                contender.warm_up(self.prompts[0], self.lengths[0], self.clock)

    def run_repeat(self, on_sample: Callable[[], None] = lambda: None) -> None:
        """Time every contender once on every prompt; `on_sample` is called between decodings."""
        for _ in self.each_prompt(on_sample):
            pass

    def each_prompt(self, on_sample: Callable[[], None] = lambda: None) -> Iterator[int]:
        """`run_repeat`, with a stop after each prompt; contenders may be changed there."""
        repeat, self._repeat = self._repeat, self._repeat + 1
        for index, prompt in enumerate(self.prompts):
            running = self._running()
            for place in run_order(len(running), index, repeat):
                contender = running[place]
                with _record_errors(contender, self.errors):
                    decoding = contender.decode(prompt, self.lengths[index], self.clock)
                    self.samples.append(Sample(contender.name, index, repeat, decoding))
                on_sample()
            yield index

    def _running(self) -> list[Runner]:
        return [c for c in self.contenders if c.name not in self.errors]


class _record_errors:
    """Notes the error of a contender that may fail; lets every other error pass."""

    def __init__(self, contender: Runner, errors: dict[str, str]) -> None:
        self._contender = contender
        self._errors = errors

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: object) -> bool:
        if kind is None or not issubclass(kind, Exception) or not self._contender.may_fail:
            return False
        text = " ".join(str(error).split())
        self._errors[self._contender.name] = f"{kind.__name__}: {text}"[:300]
        return True
