"""What a sampler that looks at the model is given. Knows nothing of samplers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.models.target import Target
    from skipopt.scoring import ScoredText


@dataclass(frozen=True, slots=True, eq=False)
class SamplerContext:
    """The model to search, texts it wrote itself, and what its parts cost.

    Attributes:
        texts: calibration texts, the ones that masks are scored on: no others.
    """

    target: Target
    texts: tuple[ScoredText, ...]
    costs: Costs
