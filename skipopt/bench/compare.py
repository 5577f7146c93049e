"""One prompt decoded by a method and plainly, timed in pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skipopt.bench.metrics import paired_log_ratios, samples_of
from skipopt.bench.runners import GREEDY, PLAIN, SkipoptRunner
from skipopt.bench.timing import Clock, Decoding, Runner, Timer, device_clock
from skipopt.decoding.api import resolve_method
from skipopt.methods import MethodSpec

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.online.state import OnlineState
    from skipopt.profile import Profile
    from skipopt.sampling import SamplingOptions

PAIRS = 2  # one in each order: A B B A
METHOD = "method"  # name of its runner, so that it cannot be that of plain decoding


@dataclass(frozen=True, slots=True)
class Comparison:
    """Plain decoding and a method on one prompt.

    Attributes:
        plain, method: the first timed decoding of each.
        pair_ratios: decoding speed of the method over that of plain decoding, for each pair.
        differs_at: index of the first new token that differs; None where all are the same, and
            where tokens are sampled, which need not be the same.
    """

    plain: Decoding
    method: Decoding
    pair_ratios: tuple[float, ...]
    differs_at: int | None

    @property
    def speedup(self) -> float:
        """Geometric mean of the pairs: a machine that slows down steadily does not change it."""
        return math.prod(self.pair_ratios) ** (1 / len(self.pair_ratios))

    def to_json(self) -> dict[str, Any]:
        """The key `compare` of `run --json`."""
        return {
            "speedup": self.speedup,
            "pair_ratios": list(self.pair_ratios),
            "plain_tokens_per_second": self.plain.tokens_per_second,
            "differs_at": self.differs_at,
        }


def compare(
    target: Target,
    prompt: Sequence[int],
    *,
    profile: Profile | None = None,
    method: str | None = None,
    max_new_tokens: int = 128,
    options: SamplingOptions = GREEDY,
    stop: Sequence[str] = (),
    online_state: OnlineState | None = None,
) -> Comparison:
    """Decode plainly, with the method, with the method, plainly; each is warmed up before.

    Args:
        prompt: token ids.
        profile, method, online_state: as in `skipopt.decoding.api.generate_rounds`.
        max_new_tokens: of both texts; both end at an end-of-text token as well.
        options: greedy, or how both sample.
        stop: strings that end both texts.

    Raises:
        PromptError, ProfileError, UsageError: as `generate_rounds`.
    """
    if profile is not None:
        profile.check_model(target.architecture, target.depth, target.fingerprint)
    spec = resolve_method(profile, method, online_state is not None)
    return compare_runners(
        SkipoptRunner(target, MethodSpec(PLAIN), options=options, stop=tuple(stop)),
        SkipoptRunner(
            target, spec, profile, options, METHOD, online_state=online_state, stop=tuple(stop)
        ),
        prompt,
        max_new_tokens,
        device_clock(target.device),
        greedy=options.greedy,
    )


def compare_runners(
    plain: Runner,
    method: Runner,
    prompt: Sequence[int],
    max_new_tokens: int,
    clock: Clock,
    greedy: bool = True,
) -> Comparison:
    """Compare two runners of different names.

    Args:
        greedy: tokens must be the same, so `differs_at` is looked for.
    """
    timer = Timer([plain, method], [prompt], [max_new_tokens], clock)
    timer.warm_up()
    timer.run(PAIRS)
    first, second = (
        samples_of(timer.samples, runner.name)[0].decoding for runner in (plain, method)
    )
    (ratios,) = paired_log_ratios(timer.samples, method.name, plain.name)
    differs_at = first_difference(first.tokens, second.tokens) if greedy else None
    return Comparison(first, second, tuple(map(math.exp, ratios)), differs_at)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first index at which two lists differ; None where they are the same.

    Where one list is the beginning of the other, it is the length of the shorter one.
    """
    shared = min(len(one), len(other))
    differing = (i for i in range(shared) if one[i] != other[i])
    return next(differing, None if len(one) == len(other) else shared)
