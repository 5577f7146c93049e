"""Chi-square test of counts, and total variation distance of distributions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import TypeVar

from scipy import stats

Key = TypeVar("Key", bound=Hashable)

LEAST_P = 1e-6  # a correct rule fails one check in a million
LEAST_EXPECTED = 10  # smallest expected count of a cell in the chi-square test


def chi_square(seen: Counter[Key], expected: Mapping[Key, float]) -> float:
    """p-value of the counts; 0 if an impossible outcome was counted. Rare cells are pooled."""
    total = sum(seen.values())
    if any(expected.get(key, 0.0) <= 0 for key in seen):
        return 0.0
    rare = {key for key, chance in expected.items() if chance * total < LEAST_EXPECTED}
    cells = [(seen[key], chance * total) for key, chance in expected.items() if key not in rare]
    cells.append((sum(seen[key] for key in rare), total * sum(expected[key] for key in rare)))
    statistic = sum((found - wanted) ** 2 / wanted for found, wanted in cells if wanted > 0)
    freedom = sum(wanted > 0 for _, wanted in cells) - 1
    return float(stats.chi2.sf(statistic, freedom))


def total_variation(seen: Counter[Key], expected: Mapping[Key, float]) -> float:
    total = sum(seen.values())
    keys = {*seen, *expected}
    return 0.5 * sum(abs(seen[key] / total - expected.get(key, 0.0)) for key in keys)
