"""Calibration texts: prompts and what the target generates after them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from statistics import median
from typing import TYPE_CHECKING

from skipopt.decoding.api import generate_rounds
from skipopt.errors import PromptError
from skipopt.measurement.workload import Workload, make_workload
from skipopt.scoring import ScoredText
from skipopt.study.time_plan import NEVER, Clock, Deadline, Pace

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.prompts import Prompt, PromptSet
    from skipopt.study.config import SearchConfig

MIN_VALIDATION_PROMPTS = 2
MIN_NEW_TOKENS = 16  # of a text, where the time is short
WANTED_TEXTS = 8  # texts are shortened before fewer of them are made
TIMED_TOKENS = 9  # of the first text, from which a search learns how fast the target is


@dataclass(frozen=True, slots=True)
class CalibrationTexts:
    """Prompts with the target's greedy continuations.

    Attributes:
        workload: the texts, cut where they begin to repeat themselves.
    """

    workload: Workload

    @property
    def texts(self) -> tuple[ScoredText, ...]:
        """Prompt and continuation, as a `Scorer` takes them."""
        pairs = zip(self.workload.prompts, self.workload.references, strict=True)
        return tuple(ScoredText((*prompt, *text), len(prompt)) for prompt, text in pairs)

    @property
    def median_text(self) -> tuple[int, ...]:
        """The tokens of the text of median length, after which costs are measured."""
        return sorted((text.tokens for text in self.texts), key=len)[len(self.texts) // 2]


def split_prompts(prompts: PromptSet, config: SearchConfig) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts whose texts are scored, and those that the finalists decode.

    These are the set's own validation part, or some of the calibration part where it has none.
    In both, the categories take turns, so that any first few are mixed.

    Raises:
        PromptError: fewer than four prompts.
    """
    used = (prompts.calibration + prompts.validation)[: config.calibration_prompts]
    check_count(used)
    most = len(used) - MIN_VALIDATION_PROMPTS
    count = min(most, max(MIN_VALIDATION_PROMPTS, int(len(used) * config.validation_share)))
    if not prompts.validation:
        to_score, to_validate = used[:-count], used[-count:]
    else:
        to_score = prompts.calibration[: len(used) - count]
        to_validate = prompts.validation[:count]
    return in_turns(to_score), in_turns(to_validate)


def in_turns(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts with their categories taking turns; in the given order within each."""
    groups: dict[str | None, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.category, []).append(prompt)
    rounds = zip_longest(*groups.values())
    return [prompt for each in rounds for prompt in each if prompt is not None]


def check_count(prompts: Sequence[Prompt]) -> None:
    """Raise PromptError if there are too few prompts to score some and validate on others."""
    if len(prompts) < 2 * MIN_VALIDATION_PROMPTS:
        raise PromptError(
            f"a search needs at least {2 * MIN_VALIDATION_PROMPTS} calibration prompts, "
            f"but there are {len(prompts)}",
            hint="half of the prompts given are held out: "
            f"give {4 * MIN_VALIDATION_PROMPTS} different ones or more",
        )


def measure_pace(
    target: Target, prompts: Sequence[Sequence[int]], clock: Clock = time.monotonic
) -> Pace:
    """How fast the target prefills and decodes: some tokens after the prompt of median length.

    They are decoded twice: what only a process's first steps do, and moments in which the machine
    was busy, do not count.
    """
    prompt = sorted(prompts, key=len)[len(prompts) // 2][
        -max(1, target.context_limit - TIMED_TOKENS) :
    ]
    clock = target.runtime.clock_without_capture(clock)
    prefills, steps = zip(*(_time_text(target, prompt, clock) for _ in range(2)), strict=True)
    token = min(steps)
    return Pace(token, max(0.0, min(prefills) - token) / len(prompt))


def _time_text(target: Target, prompt: Sequence[int], clock: Clock) -> tuple[float, float]:
    """Seconds up to the first token, and the median of the later ones."""
    times = [clock()]
    with target.runtime.capture_immediately():
        for _ in generate_rounds(target, prompt, method="plain", max_new_tokens=TIMED_TOKENS):
            times.append(clock())
    first, *later = [end - start for start, end in pairwise(times)]
    return first, median(later or [first])


def calibrate(
    target: Target,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    on_step: Callable[[], None],
    deadline: Deadline = NEVER,
    pace: Pace | None = None,
    categories: Sequence[str | None] = (),
) -> CalibrationTexts:
    """Let the target continue prompts greedily by `new_tokens`, or by fewer if time is short.

    Args:
        prompts: token ids; beginnings that do not fit into the context are cut off.
        on_step: called before each prompt.
        deadline: further prompts are left out that would end after it, but the first two never.
        pace: how long a text takes; needed with a finite deadline. A text that took longer makes
            the following ones be expected to take longer as well.
        categories: of the prompts; empty where they have none.

    Raises:
        OnlyRepetition: every continuation only repeats itself.
        PromptError: no continuation is long enough.
    """
    longest = target.context_limit - new_tokens
    prompts = [prompt[-longest:] if longest > 0 else prompt for prompt in prompts]
    if pace is not None and deadline.is_finite:
        new_tokens = _affordable_tokens(prompts, new_tokens, deadline, pace)
    # In 32 bits, copying gives the same tokens as plain decoding, faster.
    method = "suffix" if target.model.dtype.itemsize >= 4 else "plain"
    made: list[list[int]] = []
    slowdown = 1.0
    for prompt in prompts:
        seconds = 0.0 if pace is None else pace.text(len(prompt), new_tokens)
        if len(made) >= MIN_VALIDATION_PROMPTS and not deadline.fits(slowdown * seconds):
            break
        on_step()
        began = deadline.clock()
        done = generate_rounds(target, prompt, method=method, max_new_tokens=new_tokens)
        made.append([token for each in done for token in each.emitted])
        if seconds > 0:
            slowdown = max(1.0, (deadline.clock() - began) / seconds)
    texts = iter(made)
    workload = make_workload(
        prompts[: len(made)], lambda prompt: next(texts), categories[: len(made)]
    )
    return CalibrationTexts(workload)


def _affordable_tokens(
    prompts: Sequence[Sequence[int]], new_tokens: int, deadline: Deadline, pace: Pace
) -> int:
    """New tokens per text with which the wanted number of texts ends in time."""
    wanted = prompts[:WANTED_TEXTS]
    prefill = sum(pace.text(len(prompt), 0) for prompt in wanted)
    fitting = int((deadline.left - prefill) / (len(wanted) * pace.token))
    return min(new_tokens, max(MIN_NEW_TOKENS, fitting))
