"""What a sampler that runs the model is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.models.target import Target
    from skipopt.scoring import ScoredText, TextContexts


@dataclass(frozen=True, slots=True, eq=False)
class SamplerContext:
    """The model to search, calibration texts and what the model's parts cost.

    Attributes:
        texts: the calibration texts that masks are scored on, continued by the model itself.
        fits: whether there is time for forwards of so many rows altogether.
        contexts: the texts' keys and values, as far as they are known.
    """

    target: Target
    texts: tuple[ScoredText, ...]
    costs: Costs
    fits: Callable[[float], bool] = lambda rows: True
    contexts: TextContexts | None = None
