"""What a search looks at: texts the target wrote itself, some to score on, some to confirm on.

Knows nothing of masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skipopt.benchmarking.workload import Workload, make_workload
from skipopt.errors import PromptError
from skipopt.generation import generate
from skipopt.models.target import Target
from skipopt.scoring import Text

SHARE_TO_CONFIRM = 2  # one prompt in so many is kept from scoring, to confirm the best masks on
FEWEST_TO_CONFIRM = 2


@dataclass(frozen=True, slots=True)
class Calibration:
    """`texts` are scored; `confirm` holds other prompts, which no score has seen."""

    texts: tuple[Text, ...]
    confirm: Workload

    @property
    def confirm_texts(self) -> tuple[Text, ...]:
        """What `confirm` decodes, to score when all has been chosen."""
        return _texts_of(self.confirm)


def check_count(prompts: Sequence[Sequence[int]]) -> None:
    """Raises PromptError where there are too few prompts to score some and confirm on others."""
    if len(prompts) < 2 * FEWEST_TO_CONFIRM:
        raise PromptError(
            f"a search needs at least {2 * FEWEST_TO_CONFIRM} calibration prompts, "
            f"but there are {len(prompts)}",
            hint="half of the prompts given are held out; give more",
        )


def calibrate(
    target: Target,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    on_step: Callable[[], None],
) -> Calibration:
    """The target continues every prompt greedily; loops are cut off.

    Raises:
        PromptError: fewer than four prompts, or no usable continuation.
    """
    check_count(prompts)
    longest = target.context_limit - new_tokens
    prompts = [prompt[-longest:] if longest > 0 else prompt for prompt in prompts]

    # Copying from the context changes no token where sums are not rounded to few bits.
    exact = target.model.dtype.itemsize >= 4
    method = "prompt-lookup" if exact else "plain"

    def continue_plainly(prompt: Sequence[int]) -> list[int]:
        on_step()
        text = generate(target, prompt, method=method, max_new_tokens=new_tokens)
        return [token.id for token in text]

    count = max(FEWEST_TO_CONFIRM, len(prompts) // SHARE_TO_CONFIRM)
    scored = make_workload(prompts[:-count], continue_plainly)
    return Calibration(_texts_of(scored), make_workload(prompts[-count:], continue_plainly))


def _texts_of(workload: Workload) -> tuple[Text, ...]:
    pairs = zip(workload.prompts, workload.references, strict=True)
    return tuple(Text((*prompt, *reference), len(prompt)) for prompt, reference in pairs)
