"""Greedy search: leave-one-out gains first, then single flips of the best mask, then swaps.

1. The gain of skipping each sublayer alone is measured, then up to eight masks that skip the first
   n sublayers of that ranking, which shows about how many to skip.
2. Single flips of the best mask are tried in the order of each sublayer's latest measured gain, so
   that a step re-measures only the few that lead (lazy greedy: Minoux, "Accelerated greedy
   algorithms for maximizing submodular set functions", 1978). After the first few flips, several
   additions that lead are tried together, by doubling numbers: part of a draft's cost does not
   fall with the mask, so a few skips may lose where many win.
3. When no flip is left, pairs of the sublayers of most gain are added: where a single skip gains
   nothing, two may. Then the sublayers of least gain are swapped for those of most gain outside.

Measured leave-one-out values rank sets of layers far better than proxies do (regret ≤ 4 % with a
knapsack, against about 25 % for proxies, in the unreviewed study github.com/zomss/self-spec-moe).
Where the skip count is fixed, only swaps are tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, islice
from math import inf

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MaskRegistry, split_free
from skipopt.samplers.initial_masks import start_mask
from skipopt.samplers.leave_one_out import leave_one_out_gains, leave_one_out_masks

MAX_PREFIXES = 8  # masks along the ranking
LEADING_FLIPS = 4  # flips tried before joint additions
PAIRED = 12  # sublayers of which pairs are tried


class GreedySampler(BaseSampler):
    """Leave-one-out masks, then changes of the best mask in the order of their latest gains."""

    def __init__(self, space: MaskSpace, seed: int, registry: MaskRegistry | None = None) -> None:
        super().__init__(space, seed, registry)
        self._singles = leave_one_out_masks(space)
        self._latest: dict[int, float] = {}  # gain of skipping a sublayer, as last measured

    def tell(self, mask: SkipMask, value: float) -> None:
        if self.registry.record(mask, value) and self.space.skip_count is None:
            self._latest.update(measured_gains(mask, self.registry.values, self.space))

    def proposals(self) -> Iterator[SkipMask]:
        """Ends when every change of the best mask is known."""
        singles = (start_mask(self.space), *self._singles.values())
        yield from filter(self.registry.claim_for_information, singles)
        if self.space.skip_count is None:
            prefixes = ranking_prefixes(self.space, self._single_gains())
            yield from filter(self.registry.claim, prefixes)
        center = self.registry.best or start_mask(self.space)
        yield from filter(self.registry.claim, self._around(center))

    def _around(self, center: SkipMask) -> Iterator[SkipMask]:
        gains = self._single_gains() | self._latest
        if self.space.skip_count is None:
            # Unclaimed ones only, so that each step continues where the last one stopped.
            flips = filter(self._is_unclaimed, single_flips(self.space, center, gains))
            yield from islice(flips, LEADING_FLIPS)
            yield from joint_additions(self.space, center, gains)
            yield from flips
            yield from pair_additions(self.space, center, gains)
        yield from swaps(self.space, center, gains)

    def _single_gains(self) -> dict[int, float]:
        """The gain of skipping each sublayer alone; −inf where it is not known."""
        return leave_one_out_gains(self.space, self._singles, self.registry.values)

    def _is_unclaimed(self, mask: SkipMask) -> bool:
        return mask not in self.registry


def measured_gains(
    mask: SkipMask, values: Mapping[SkipMask, float], space: MaskSpace
) -> dict[int, float]:
    """The gain of skipping each sublayer whose flip of `mask` has a value too."""
    found: dict[int, float] = {}
    for i in space.free:
        other = values.get(mask.flip(i))
        if other is not None:
            found[i] = values[mask] - other if i in mask.skipped else other - values[mask]
    return found


def single_flips(
    space: MaskSpace, center: SkipMask, gains: Mapping[int, float]
) -> Iterator[SkipMask]:
    """One sublayer more or less, by descending expected gain."""
    expected = {i: -gains[i] if i in center.skipped else gains[i] for i in space.free}
    return (center.flip(i) for i in sorted(space.free, key=lambda i: -expected[i]))


def joint_additions(
    space: MaskSpace, center: SkipMask, gains: Mapping[int, float]
) -> Iterator[SkipMask]:
    """The 2, 4, 8, … sublayers of highest gain added together, up to all."""
    _, outside = split_free(space, center)
    outside.sort(key=lambda i: -gains[i])
    width = 2
    while width < 2 * len(outside):
        yield center.flip(*outside[:width])
        width *= 2


def pair_additions(
    space: MaskSpace, center: SkipMask, gains: Mapping[int, float]
) -> Iterator[SkipMask]:
    """Two of the `PAIRED` sublayers of highest gain added together, by descending sum."""
    _, outside = split_free(space, center)
    leading = sorted(outside, key=lambda i: -gains[i])[:PAIRED]
    pairs = sorted(combinations(leading, 2), key=lambda pair: -gains[pair[0]] - gains[pair[1]])
    return (center.flip(*pair) for pair in pairs)


def ranking_prefixes(space: MaskSpace, gains: Mapping[int, float]) -> Iterator[SkipMask]:
    """Masks of the sublayers of highest gain: about an eighth of them, two eighths, …."""
    order = sorted(space.free, key=lambda i: -gains[i])
    step = max(1, -(-len(order) // MAX_PREFIXES))
    return (space.mask(order[:n]) for n in range(step, len(order) + 1, step))


def swaps(space: MaskSpace, center: SkipMask, gains: Mapping[int, float]) -> Iterator[SkipMask]:
    """One skipped sublayer exchanged for one that is kept, by descending expected gain."""
    inside, outside = split_free(space, center)
    finite = {i: gains[i] if gains[i] > -inf else -1e9 for i in space.free}  # −inf − −inf is nan
    pairs = [(i, j) for i in inside for j in outside]
    pairs.sort(key=lambda pair: finite[pair[0]] - finite[pair[1]])
    return (center.flip(i, j) for i, j in pairs)
