"""One prompt decoded by a method and plainly, timed in pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from skipopt.decoding.api import resolve_method
from skipopt.decoding.options import DecodingFields, DecodingOptions
from skipopt.decoding.text_prompt import ending_turns, is_chat, prompt_ids
from skipopt.measurement import metrics
from skipopt.measurement.lossless import ComparedText, LosslessReport, check_texts
from skipopt.measurement.methods_table import end_to_end_json, first_texts
from skipopt.measurement.metrics import EndToEnd, paired_log_ratios, samples_of
from skipopt.measurement.runners import GREEDY, PLAIN, SkipoptRunner
from skipopt.measurement.timing import Clock, Decoding, Runner, Timer, device_clock
from skipopt.methods import MethodSpec

if TYPE_CHECKING:
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.models.target import Target
    from skipopt.online.state import OnlineState
    from skipopt.profile import Profile
    from skipopt.sampling import SamplingOptions

PAIRS = 2  # one in each order: A B B A
METHOD = "method"  # name of its runner, so that it cannot be that of plain decoding


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """Plain decoding and a method on one prompt.

    Attributes:
        plain, method: the first timed decoding of each.
        pair_ratios: decoding speed of the method over that of plain decoding, for each pair.
        end_to_end: plain over method in wall time of the whole text, prefill included.
        first_text: the same where nothing was captured or copied before; None if not measured.
        differs_at: index of the first new token that differs; None where all are the same, and
            where tokens are sampled, which need not be the same.
        lossless: whether a difference is within the numerical margin; None where texts need not
            be the same.
    """

    plain: Decoding
    method: Decoding
    pair_ratios: tuple[float, ...]
    end_to_end: EndToEnd
    first_text: EndToEnd | None
    differs_at: int | None
    lossless: LosslessReport | None

    def __repr__(self) -> str:
        differs = "" if self.differs_at is None else f", differs at {self.differs_at}"
        return f"Comparison({self.speedup:.2f}×, {len(self.method.tokens)} tokens{differs})"

    @property
    def speedup(self) -> float:
        """Geometric mean of the pairs: a machine that slows down steadily does not change it."""
        return math.prod(self.pair_ratios) ** (1 / len(self.pair_ratios))

    def to_json(self) -> dict[str, Any]:
        """The key `compare` of `run --json`."""
        return {
            "speedup": self.speedup,
            "pair_ratios": list(self.pair_ratios),
            **end_to_end_json(self.end_to_end, self.first_text),
            "plain_tokens_per_second": self.plain.tokens_per_second,
            "differs_at": self.differs_at,
            "lossless": self.lossless and self.lossless.to_json(),
        }


def compare(
    target: Target,
    prompt: str | Sequence[Mapping[str, str]] | Sequence[int] | Any,
    options: DecodingOptions | None = None,
    *,
    profile: Profile | None = None,
    online_state: OnlineState | None = None,
    memory: DraftMemory | None = None,
    chat: bool = False,
    **changes: Unpack[DecodingFields],
) -> Comparison:
    """Decode plainly, with the method, with the method, plainly; each is warmed up before.

    Before that each decodes once in a fresh state. Both texts end at a stop string, at an
    end-of-text token, or after `max_new_tokens`.

    Args: as for `stream_generate`; no text is added to the memory.

    Raises:
        PromptError, ProfileError, UsageError: as `stream_generate`.
    """
    options = replace(options or DecodingOptions(), **changes)
    ids = prompt_ids(target, prompt, chat)
    if chat or is_chat(prompt):
        target = ending_turns(target)
    if profile is not None:
        profile.check_model(target)
    if memory is not None:
        memory.check_target(target)
    spec = resolve_method(profile, options.method, online_state is not None)
    sampling, stop = options.sampling, tuple(options.stop)
    return compare_runners(
        target,
        SkipoptRunner(target, MethodSpec(PLAIN), options=sampling, stop=stop),
        SkipoptRunner(
            target,
            spec,
            profile,
            sampling,
            METHOD,
            online_state=online_state,
            stop=stop,
            memory=memory,
        ),
        ids,
        options.max_new_tokens,
        device_clock(target.device),
        sampling,
    )


def compare_runners(
    target: Target,
    plain: Runner,
    method: Runner,
    prompt: Sequence[int],
    max_new_tokens: int,
    clock: Clock,
    options: SamplingOptions = GREEDY,
) -> Comparison:
    """Compare two runners of different names.

    Args:
        options: of both; where they are greedy, `differs_at` is looked for.
    """
    timer = Timer([plain, method], [prompt], [max_new_tokens], clock)
    timer.warm_up_runner(plain)
    timer.run_first_texts(first_texts(target, 1))
    timer.warm_up()
    timer.run(PAIRS)
    first, second = (
        samples_of(timer.samples, runner.name)[0].decoding for runner in (plain, method)
    )
    (ratios,) = paired_log_ratios(timer.samples, method.name, plain.name)
    end_to_end = metrics.end_to_end(timer.samples, method.name, plain.name)
    assert end_to_end is not None, "both have decoded the prompt"
    lossless = None
    if method.guarantee != "same distribution":
        text = ComparedText(tuple(prompt), first.tokens, second.tokens)
        lossless = check_texts(target, [text], options)
    return Comparison(
        first,
        second,
        tuple(map(math.exp, ratios)),
        end_to_end,
        metrics.end_to_end(timer.first_texts, method.name, plain.name),
        first_difference(first.tokens, second.tokens) if options.greedy else None,
        lossless,
    )


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first index at which two lists differ; None where they are the same.

    Where one list is the beginning of the other, it is the length of the shorter one.
    """
    shared = min(len(one), len(other))
    differing = (i for i in range(shared) if one[i] != other[i])
    return next(differing, None if len(one) == len(other) else shared)
