"""A cost source that measures nothing, so that searches do not depend on the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from skipopt.cost_model.costs import Costs
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.models.target import Target

CostFunction = Callable[[int, int, DraftConfig], Costs]  # (context, longest, draft config)


class FixedCosts:
    """A cost source that returns `function(context tokens, longest, draft_config)`.

    Attributes:
        contexts: the context lengths it was asked for.
    """

    def __init__(self, function: CostFunction) -> None:
        self.contexts: list[int] = []
        self._function = function

    def costs(
        self,
        target: Target,
        context: Sequence[int],
        longest: int,
        seconds: float,
        draft_config: DraftConfig = UNCHANGED,
        most: float = inf,
    ) -> Costs:
        self.contexts.append(len(context))
        return self._function(len(context), longest, draft_config)

    def with_trees_and_context(
        self,
        target: Target,
        context: Sequence[int],
        costs: Costs,
        draft_config: DraftConfig = UNCHANGED,
    ) -> Costs:
        return costs
