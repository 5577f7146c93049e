"""Calibration texts: prompts and what the target generates after them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.bench.workload import Workload, make_workload
from skipopt.decoding.api import generate_rounds
from skipopt.errors import PromptError
from skipopt.scoring import ScoredText

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.prompts import Prompt, PromptSet
    from skipopt.study.config import SearchConfig

MIN_VALIDATION_PROMPTS = 2


@dataclass(frozen=True, slots=True)
class CalibrationTexts:
    """Prompts with the target's greedy continuations.

    Attributes:
        workload: the texts, cut where they begin to repeat themselves.
        rounds: target forwards that generated them, by prompt lookup where it is exact.
    """

    workload: Workload
    rounds: int

    @property
    def texts(self) -> tuple[ScoredText, ...]:
        """Prompt and continuation, as a `Scorer` takes them."""
        pairs = zip(self.workload.prompts, self.workload.references, strict=True)
        return tuple(ScoredText((*prompt, *text), len(prompt)) for prompt, text in pairs)

    @property
    def median_text(self) -> tuple[int, ...]:
        """The tokens of the text of median length, after which costs are measured."""
        return sorted((text.tokens for text in self.texts), key=len)[len(self.texts) // 2]

    @property
    def tokens_per_lookup_round(self) -> float:
        """Tokens per round of prompt lookup; 1 where the texts were decoded plainly."""
        tokens = sum(self.workload.lengths) + self.workload.repetitive_tokens
        return tokens / self.rounds


def split_prompts(prompts: PromptSet, config: SearchConfig) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts whose texts are scored, and those that the finalists decode.

    These are the set's own validation part, or some of the calibration part where it has none.

    Raises:
        PromptError: fewer than four prompts.
    """
    used = (prompts.calibration + prompts.validation)[: config.calibration_prompts]
    check_count(used)
    most = len(used) - MIN_VALIDATION_PROMPTS
    count = min(most, max(MIN_VALIDATION_PROMPTS, int(len(used) * config.validation_share)))
    if not prompts.validation:
        return list(used[:-count]), list(used[-count:])
    return list(prompts.calibration[: len(used) - count]), list(prompts.validation[:count])


def check_count(prompts: Sequence[Prompt]) -> None:
    """Raise PromptError if there are too few prompts to score some and validate on others."""
    if len(prompts) < 2 * MIN_VALIDATION_PROMPTS:
        raise PromptError(
            f"a search needs at least {2 * MIN_VALIDATION_PROMPTS} calibration prompts, "
            f"but there are {len(prompts)}",
            hint="half of the prompts given are held out: "
            f"give {4 * MIN_VALIDATION_PROMPTS} different ones or more",
        )


def calibrate(
    target: Target,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    on_step: Callable[[], None],
) -> CalibrationTexts:
    """Let the target continue each prompt greedily by `new_tokens`.

    Args:
        prompts: token ids; beginnings that do not fit into the context are cut off.
        on_step: called before each prompt.

    Raises:
        OnlyRepetition: every continuation only repeats itself.
        PromptError: no continuation is long enough.
    """
    longest = target.context_limit - new_tokens
    prompts = [prompt[-longest:] if longest > 0 else prompt for prompt in prompts]
    # In 32 bits, prompt lookup gives the same tokens as plain decoding, faster.
    method = "prompt-lookup" if target.model.dtype.itemsize >= 4 else "plain"
    rounds = 0

    def continue_prompt(prompt: Sequence[int]) -> list[int]:
        nonlocal rounds
        on_step()
        done = list(generate_rounds(target, prompt, method=method, max_new_tokens=new_tokens))
        rounds += len(done)
        return [token for each in done for token in each.emitted]

    workload = make_workload(prompts, continue_prompt)
    return CalibrationTexts(workload, rounds)
