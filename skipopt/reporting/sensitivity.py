"""What skipping each sublayer changes, from the trials of a search by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from skipopt.errors import SkipoptError

if TYPE_CHECKING:
    from skipopt.storage.base import Trial

RIDGE = 1e-3  # of the squares, so that sublayers that were always skipped together share


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Effects by sublayer.

    Attributes:
        effects: relative change of the value when the sublayer is skipped, 0.05 for 5 % more;
            None where no trial kept it, or none skipped it.
        layers: of the model.
        trials: number that they come from.
    """

    effects: tuple[float | None, ...]
    layers: int
    trials: int


def sensitivity(trials: Sequence[Trial]) -> Sensitivity:
    """Fit the logarithm of the value by an effect of each sublayer and of each draft config.

    Raises:
        SkipoptError: there are fewer trials than effects.
    """
    import numpy as np

    used = [each for each in trials if isfinite(each.value) and each.value > 0]
    layers = used[0].mask.layers if used else 0
    bits = np.array([each.mask.bits for each in used], dtype=float).reshape(len(used), 2 * layers)
    configs = sorted({str(each.draft_config) for each in used})
    of_config = np.array([[str(t.draft_config) == name for name in configs] for t in used], float)
    varied = np.flatnonzero(bits.any(0) & ~bits.all(0)) if used else np.array([], int)
    count = len(varied) + len(configs)
    if not len(varied) or len(used) <= count:
        raise SkipoptError(
            f"{len(used)} trials cannot tell {2 * layers} sublayers apart",
            hint="search with more --trials, or a longer --timeout",
        )
    design = np.hstack([bits[:, varied], of_config])
    values = np.log([each.value for each in used])
    damping = np.diag([RIDGE * len(used)] * len(varied) + [0.0] * len(configs))
    solved = np.linalg.solve(design.T @ design + damping, design.T @ values)
    effects: list[float | None] = [None] * (2 * layers)
    for index, effect in zip(varied, solved, strict=False):
        effects[index] = float(np.expm1(effect))
    return Sensitivity(tuple(effects), layers, len(used))
