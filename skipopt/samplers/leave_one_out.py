"""Leave-one-out: rank the sublayers by skipping each alone, then search how many to skip.

2L trials give the ranking. Along it the search has two dimensions, the numbers of attention and of
MLP sublayers to skip, and settles after a few dozen trials.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MaskRegistry, split_free
from skipopt.samplers.initial_masks import start_mask
from skipopt.samplers.skip_counts import CompassSearch, SensitivityRanking


class LeaveOneOutSampler(BaseSampler):
    """Leave-one-out masks, then a compass search over skip counts along their ranking."""

    def __init__(self, space: MaskSpace, seed: int, registry: MaskRegistry | None = None) -> None:
        super().__init__(space, seed, registry)
        self._singles = leave_one_out_masks(space)
        self._compass = CompassSearch(self.registry)

    def proposals(self) -> Iterator[SkipMask]:
        """Ends when the compass search has settled."""
        singles = (start_mask(self.space), *self._singles.values())
        yield from filter(self.registry.claim_for_information, singles)
        gains = leave_one_out_gains(self.space, self._singles, self.registry.values)
        yield from self._compass.proposals(SensitivityRanking.from_gains(self.space, gains))


def leave_one_out_masks(space: MaskSpace) -> dict[int, SkipMask]:
    """For each free sublayer, the mask whose value shows the gain of skipping it.

    Without a fixed skip count that is the mask that skips it alone. With one, a sublayer can only
    be exchanged for another: those in the start mask leave it for one fixed partner outside, and
    those outside enter it for one fixed partner inside. The partner outside has no mask; its gain
    is the zero of the scale.
    """
    start = start_mask(space)
    if space.skip_count is None:
        return {i: start.flip(i) for i in space.free}
    inside, outside = split_free(space, start)
    if not inside or not outside:
        return {}
    leaving, entering = _partners(space)
    exchanges = {i: start.flip(i, entering) for i in inside}
    return exchanges | {i: start.flip(leaving, i) for i in outside if i != entering}


def leave_one_out_gains(
    space: MaskSpace, masks: Mapping[int, SkipMask], values: Mapping[SkipMask, float]
) -> dict[int, float]:
    """What skipping each free sublayer adds to the value, if effects add up; −inf if unknown.

    Where the skip count is fixed, gains are known up to a common constant.

    Args:
        masks: those of `leave_one_out_masks`.
    """
    start = values.get(start_mask(space), inf)
    rise = {i: values.get(mask, -inf) - start for i, mask in masks.items()}
    if space.skip_count is None or not masks:
        return {i: rise.get(i, -inf) for i in space.free}
    # An exchange raises the value by gain(enters) − gain(leaves), and gain(entering) is 0.
    leaving, entering = _partners(space)
    inside, _ = split_free(space, start_mask(space))
    gains = {i: -rise[i] if rise[i] > -inf else -inf for i in inside} | {entering: 0.0}
    return {i: gains[i] if i in gains else rise[i] + gains[leaving] for i in space.free}


def _partners(space: MaskSpace) -> tuple[int, int]:
    """The sublayers that leave and enter the start mask when the others are exchanged.

    The middle ones of each side, because a model depends most on its first and last layers.
    """
    inside, outside = split_free(space, start_mask(space))
    return inside[len(inside) // 2], outside[len(outside) // 2]
