"""Where a search gets its costs from: by default, by timing the target."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Protocol

from skipopt.draft_config import UNCHANGED, DraftConfig

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.models.target import Target


class CostSource(Protocol):
    """Gives the costs of drafting and verification that a search predicts speed with."""

    def costs(
        self,
        target: Target,
        context: Sequence[int],
        longest: int,
        seconds: float,
        draft_config: DraftConfig = UNCHANGED,
        most: float = inf,
    ) -> Costs:
        """Costs after this context.

        Args:
            context: token ids.
            longest: tokens of the longest verification.
            seconds: time to measure.
            draft_config: what makes drafts cheaper.
            most: seconds within which the measurement should end, also if it is less exact.
        """
        ...

    def with_trees_and_context(
        self,
        target: Target,
        context: Sequence[int],
        costs: Costs,
        draft_config: DraftConfig = UNCHANGED,
    ) -> Costs:
        """`costs` with those of verifying trees, and their growth with the context length.

        No mask is chosen by them; methods that draft trees read them from the profile.
        """
        ...


class MeasuredCosts:
    """Times rounds of decoding on the target."""

    def costs(
        self,
        target: Target,
        context: Sequence[int],
        longest: int,
        seconds: float,
        draft_config: DraftConfig = UNCHANGED,
        most: float = inf,
    ) -> Costs:
        """Raises ModelError if the target's context is too short."""
        from skipopt.measurement.cost_measurement import measure_costs

        return measure_costs(
            target, context, longest, seconds, draft_config=draft_config, most=most
        )

    def with_trees_and_context(
        self,
        target: Target,
        context: Sequence[int],
        costs: Costs,
        draft_config: DraftConfig = UNCHANGED,
    ) -> Costs:
        from skipopt.measurement.tree_cost_measurement import measure_tree_and_context_costs

        return measure_tree_and_context_costs(target, context, costs, draft_config=draft_config)
