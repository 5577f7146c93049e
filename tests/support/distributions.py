"""Test whether sampled pairs of tokens follow the required distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from skipopt.sampling import SamplingOptions, TokenSampler
from support.chances import LEAST_EXPECTED
from support.table_engine import VOCABULARY, TableEngine

Counts = NDArray[np.float64]


def p_value(tokens: Sequence[int], right: Tensor) -> float:
    """Chi-square p-value of disjoint pairs (b, c), each given the token a before it.

    `right` is (V, V); row a is the distribution after token a.
    """
    q = right.double().numpy()
    before, first, second = (
        np.array(part) for part in (tokens[:-2:2], tokens[1:-1:2], tokens[2::2])
    )
    seen = np.zeros((VOCABULARY,) * 3)
    np.add.at(seen, (before, first, second), 1)
    expected = seen.sum((1, 2))[:, None, None] * q[:, :, None] * q[None]
    if seen[expected == 0].any():
        return 0.0
    return _chi_square(seen, expected)


def _chi_square(seen: Counts, expected: Counts) -> float:
    """Chi-square statistic of the pairs after one token; rare pairs are pooled."""
    statistic, freedom = 0.0, 0
    rows = zip(seen.reshape(len(seen), -1), expected.reshape(len(seen), -1), strict=True)
    for observed, wanted in rows:
        order = np.argsort(wanted)
        groups = np.cumsum(wanted[order]) // LEAST_EXPECTED
        observed = np.bincount(groups.astype(int), observed[order])
        wanted = np.bincount(groups.astype(int), wanted[order])
        filled = wanted > 0
        statistic += float(((observed - wanted)[filled] ** 2 / wanted[filled]).sum())
        freedom += int(filled.sum()) - 1
    return float(stats.chi2.sf(statistic, freedom))


def right_answer(engine: TableEngine, options: SamplingOptions) -> Tensor:
    return TokenSampler(options, torch.device("cpu"), coupled=False).probabilities(engine.whole)
