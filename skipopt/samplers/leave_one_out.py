"""Probe each sublayer alone, rank them, then search how many of each kind to skip.

2L single probes buy a ranking; along it the search has two dimensions, attention sublayers and
MLPs skipped, and a few dozen trials settle it. What is left goes to flips around the best mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from random import Random

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.dedup import MaskRegistry, take
from skipopt.samplers.initial_masks import first_mask
from skipopt.samplers.skip_counts import CompassSearch, SensitivityRanking


class LeaveOneOutSampler:
    """Probes, budgets over their ranking, then neighbours of the best mask."""

    def __init__(self, space: MaskSpace, seed: int, visited: MaskRegistry | None = None) -> None:
        """`visited` may be shared with another sampler that is told the same values."""
        self._space = space
        self._visited = MaskRegistry(space, Random(seed)) if visited is None else visited
        self._probes = probe_masks(space)
        self._budgets = CompassSearch(self._visited)

    def ask(self, count: int) -> list[SkipMask]:
        return take(self._proposals(), count)

    def tell(self, mask: SkipMask, value: float) -> None:
        self._visited.record(mask, value)

    def guided(self) -> Iterator[SkipMask]:
        """Probes and budgets, claimed; ends when the budgets have settled."""
        start = first_mask(self._space)
        yield from filter(self._visited.claim_to_learn, (start, *self._probes.values()))
        gains = probe_gains(self._space, self._probes, self._visited.values)
        yield from self._budgets.proposals(SensitivityRanking.by(self._space, gains))

    def _proposals(self) -> Iterator[SkipMask]:
        yield from self.guided()
        centre = self._visited.best or first_mask(self._space)
        while (mask := self._visited.near(centre)) is not None:
            yield mask


def probe_masks(space: MaskSpace) -> dict[int, SkipMask]:
    """For each free position, the mask that shows what skipping it is worth.

    Where the skip count is fixed, a position can only be seen in exchange for another: those in
    the start mask leave it for one partner outside, those outside enter it for one inside. The
    partner outside is the zero of the scale and has no probe.
    """
    start = first_mask(space)
    if space.skip_count is None:
        return {i: start.flip(i) for i in space.free}
    inside, outside = _sides(space)
    if not inside or not outside:
        return {}
    leaving, entering = _partners(space)
    switches = {i: start.flip(i, entering) for i in inside}
    return switches | {i: start.flip(leaving, i) for i in outside if i != entering}


def probe_gains(
    space: MaskSpace, probes: Mapping[int, SkipMask], values: Mapping[SkipMask, float]
) -> dict[int, float]:
    """What skipping each free position adds to the value, if effects add up; −inf = unknown.

    Comparable with each other, where the skip count is fixed up to a common constant.
    """
    start = values.get(first_mask(space), inf)
    rise = {i: values.get(mask, -inf) - start for i, mask in probes.items()}
    if space.skip_count is None or not probes:
        return {i: rise.get(i, -inf) for i in space.free}
    # A swap is worth gain(enters) − gain(leaves), and gain(entering) is 0.
    leaving, entering = _partners(space)
    inside, _ = _sides(space)
    gains = {i: -rise[i] if rise[i] > -inf else -inf for i in inside} | {entering: 0.0}
    return {i: gains[i] if i in gains else rise[i] + gains[leaving] for i in space.free}


def _sides(space: MaskSpace) -> tuple[list[int], list[int]]:
    """Free positions inside and outside the start mask."""
    skipped = first_mask(space).skipped
    inside = [i for i in space.free if i in skipped]
    return inside, [i for i in space.free if i not in skipped]


def _partners(space: MaskSpace) -> tuple[int, int]:
    """The position that leaves, and the one that enters, when the others are probed."""
    # The middle of each side: the first and last layers are the ones a model cannot spare.
    inside, outside = _sides(space)
    return inside[len(inside) // 2], outside[len(outside) // 2]
