"""One text of `run`, timed: prefill apart from decoding. Knows nothing of options or printing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from skipopt.decoding.api import generate_rounds, resolve_method
from skipopt.detokenizer import TextRound, decode_text
from skipopt.rounds import Round, Statistics

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.online.state import OnlineState
    from skipopt.profile import Profile
    from skipopt.sampling import SamplingOptions

OnRound = Callable[[TextRound], None]


def unseen(each: TextRound) -> None:
    """A round that nobody looks at."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to decode, and how.

    Attributes:
        adaptation: tune the method meanwhile; it learns from every text made from this request.
    """

    target: Target
    prompt: Sequence[int]
    profile: Profile | None
    method: str
    max_new_tokens: int
    options: SamplingOptions
    stops: Sequence[str] = ()
    online_state: OnlineState | None = None


@dataclass(slots=True)
class Generation:
    """A text and what it took.

    Attributes:
        prefill_seconds: until decoding began.
        seconds: of decoding alone; making text and printing it are in neither.
    """

    method: str
    prompt_tokens: int
    text: str = ""
    rounds: list[Round] = field(default_factory=list)
    prefill_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def tokens(self) -> list[int]:
        return [token for each in self.rounds for token in each.emitted]

    @property
    def tokens_per_second(self) -> float:
        return len(self.tokens) / max(self.seconds, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """The keys of `run --json`, but for `profile`."""
        total = Statistics.of(self.rounds)
        return {
            "text": self.text,
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": total.new_tokens,
            "method": self.method,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "prefill_seconds": self.prefill_seconds,
            "target_forwards": total.target_forwards,
            "draft_forwards": total.draft_forwards,
            "drafted": total.drafted,
            "accepted": total.accepted,
            "acceptance_rate": total.acceptance_rate,
            "mean_acceptance_length": total.mean_acceptance_length,
            "acceptance_by_position": total.acceptance_by_position,
            "stop_reason": total.stop_reason,
        }


def generate_text(request: Request, on_round: OnRound = unseen) -> Generation:
    """Decode one text; `on_round` sees each round as soon as it is decided.

    Raises:
        PromptError, ProfileError, UsageError: before the first round.
    """
    spec = resolve_method(request.profile, request.method, request.online_state is not None)
    made = Generation(str(spec), len(request.prompt))
    rounds = generate_rounds(
        request.target,
        request.prompt,
        profile=request.profile,
        method=request.method,
        max_new_tokens=request.max_new_tokens,
        options=request.options,
        online_state=request.online_state,
    )
    pieces: list[str] = []
    tokenizer = request.target.tokenizer
    for each in decode_text(tokenizer, timed(rounds, made), request.stops):
        made.rounds.append(each.round)
        pieces.append(each.text)
        on_round(each)
    made.text = "".join(pieces)
    return made


def timed(rounds: Iterable[Round], made: Generation) -> Iterator[Round]:
    """The rounds, their time added to `made`; what the consumer does with them is not timed."""
    iterator = iter(rounds)
    first = True
    while True:
        began = time.perf_counter()
        each = next(iterator, None)
        spent = time.perf_counter() - began
        if each is None:
            return
        if first:
            # The first round is preceded by the prefill.
            first = False
            made.prefill_seconds = max(0.0, spent - each.draft_seconds - each.verify_seconds)
            spent -= made.prefill_seconds
        made.seconds += spent
        yield each


@dataclass(frozen=True, slots=True)
class Comparison:
    """Plain decoding and a method on one prompt, in the order A B B A.

    Attributes:
        ratios: tokens per second of the method over plain, one for each adjacent pair.
        differs_at: first position where the tokens differ; None where they are the same, or
            where sampling makes comparing them meaningless.
    """

    plain: Generation
    made: Generation
    ratios: tuple[float, float]
    differs_at: int | None

    @property
    def speedup(self) -> float:
        """Geometric mean of both pairs: a machine that slows down steadily favours nobody."""
        return math.sqrt(self.ratios[0] * self.ratios[1])

    def to_json(self) -> dict[str, Any]:
        return {
            "speedup": self.speedup,
            "pairs": list(self.ratios),
            "plain_tokens_per_second": self.plain.tokens_per_second,
            "differs_at": self.differs_at,
        }


def compare(request: Request, plain: Request) -> Comparison:
    """Decode plainly, with the method, with the method, plainly; each warmed up before."""
    with request.target.runtime.capture_immediately():
        for each in (plain, request):
            generate_text(each)
        first, second, third, fourth = (generate_text(r) for r in (plain, request, request, plain))
    ratios = (
        second.tokens_per_second / first.tokens_per_second,
        third.tokens_per_second / fourth.tokens_per_second,
    )
    where = first_difference(first.tokens, second.tokens) if request.options.greedy else None
    return Comparison(first, second, ratios, where)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first position in which two lists differ, their lengths included."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return None if len(one) == len(other) else min(len(one), len(other))
