"""What a search looks at: texts the target writes itself, some to score on, some to confirm on.

Knows nothing of masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skipopt.bench.workload import Workload, make_workload
from skipopt.decoding.api import generate_rounds
from skipopt.errors import PromptError
from skipopt.models.target import Target
from skipopt.scoring import ScoredText

SHARE_TO_CONFIRM = 2  # one prompt in so many is kept from scoring, to confirm the best masks on
FEWEST_TO_CONFIRM = 2


@dataclass(frozen=True, slots=True)
class CalibrationTexts:
    """Prompts with what the target writes after them.

    `rounds` is how many target forwards that took, by prompt lookup where it was allowed.
    """

    workload: Workload
    rounds: int

    @property
    def texts(self) -> tuple[ScoredText, ...]:
        """To be scored."""
        pairs = zip(self.workload.prompts, self.workload.references, strict=True)
        return tuple(ScoredText((*prompt, *reference), len(prompt)) for prompt, reference in pairs)

    @property
    def copied(self) -> float:
        """Tokens of a round of prompt lookup, loops included; 1 where all was decoded plainly."""
        tokens = sum(self.workload.lengths) + self.workload.repetitive_tokens
        return tokens / self.rounds


def split_to_confirm(
    prompts: Sequence[Sequence[int]],
) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """Some to score masks on, and others, which no score sees, to confirm the best on.

    Raises:
        PromptError: fewer than four prompts.
    """
    check_count(prompts)
    count = max(FEWEST_TO_CONFIRM, len(prompts) // SHARE_TO_CONFIRM)
    return list(prompts[:-count]), list(prompts[-count:])


def check_count(prompts: Sequence[Sequence[int]]) -> None:
    """Raises PromptError where there are too few prompts to score some and confirm on others."""
    if len(prompts) < 2 * FEWEST_TO_CONFIRM:
        raise PromptError(
            f"a search needs at least {2 * FEWEST_TO_CONFIRM} calibration prompts, "
            f"but there are {len(prompts)}",
            hint="half of the prompts given are held out; give more",
        )


def continue_prompts(
    target: Target,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    on_step: Callable[[], None],
) -> CalibrationTexts:
    """The target continues every prompt greedily; loops are cut off.

    Raises:
        NothingButLoops: there is nothing else.
        PromptError: no usable continuation.
    """
    longest = target.context_limit - new_tokens
    prompts = [prompt[-longest:] if longest > 0 else prompt for prompt in prompts]
    # Copying from the context changes no token where sums are not rounded to few bits.
    exact = target.model.dtype.itemsize >= 4
    rounds = 0

    def continue_exactly(prompt: Sequence[int]) -> list[int]:
        nonlocal rounds
        on_step()
        method = "prompt-lookup" if exact else "plain"
        done = list(generate_rounds(target, prompt, method=method, max_new_tokens=new_tokens))
        rounds += len(done)
        return [token for each in done for token in each.emitted]

    workload = make_workload(prompts, continue_exactly)
    return CalibrationTexts(workload, rounds)
