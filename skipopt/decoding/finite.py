"""Refuses logits that are not numbers: what follows them would mean nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipopt.errors import ModelError, UsageError
from skipopt.one_thread import one_thread

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.verification.target_rows import TargetRows

HINTS = {
    "float16": "float16 may have overflowed: use --dtype bfloat16 or --dtype float32",
    "bfloat16": "use --dtype float32; if that does not help, the weights may be damaged",
}
DAMAGED = "a weight may be NaN or infinite: download or convert the checkpoint again"


def not_finite(number: int, dtype: str) -> ModelError:
    """The error.

    Args:
        number: of the new token that was to be chosen, from 1 on.
        dtype: of the model.
    """
    return ModelError(
        f"the model's logits for new token {number} are NaN or infinite",
        hint=HINTS.get(dtype, DAMAGED),
    )


@one_thread()
def first_not_finite(
    logits: Tensor, rows: Sequence[int], tokens: Sequence[int], largest: bool
) -> int | None:
    """Index of the first row whose largest logit is NaN or infinite; None if there is none.

    −∞ is legal elsewhere in a row.

    Args:
        logits: of a step.  # (n, V)
        rows: those from which the tokens were chosen.
        tokens: one of each row.
        largest: whether they were chosen as the largest. NaN counts as the largest, so then the
            tokens' own logits are enough unless one of them is not finite.
    """
    if largest and all(map(math.isfinite, logits[rows, tokens].tolist())):
        return None
    found = logits.amax(-1).tolist()
    return next((i for i, row in enumerate(rows) if not math.isfinite(found[row])), None)


@one_thread()
def check_processed(rows: TargetRows, chosen_from: Sequence[int]) -> None:
    """Refuse sampling from rows of which logits processors left nothing.

    Raises:
        UsageError: the largest of a row's processed logits is NaN or infinite.
    """
    if not all(bool(rows[row].amax().isfinite()) for row in chosen_from):
        raise UsageError(
            "logits processors or temperature leave no distribution to sample from",
            hint="check the processors, and try a higher temperature",
        )
