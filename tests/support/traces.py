"""Synthetic traces and costs for tests of the online comparison and tuning."""

from __future__ import annotations

from random import Random

import numpy as np

from skipopt.cost_model.costs import Costs
from skipopt.masks import SkipMask
from skipopt.scoring import Trace

DEPTH = 4
MASK = SkipMask.of(DEPTH, [1], [1])


def made_up_costs(step: float = 1.0, saving: float = 0.1, row: float = 0.02) -> Costs:
    """Costs of a draft step that skips nothing, saving per skipped sublayer, cost per row."""
    verify = tuple(1 + row * drafted for drafted in range(20))
    return Costs(step - 2 * DEPTH * saving, saving, saving, 0.0, verify)


COSTS = made_up_costs()


def trace(matched: str, confidence: float = 0.9) -> Trace:
    """A trace of one text: `x` where the draft's token equals the text's."""
    flags = np.array([each == "x" for each in matched])[None, :, None]
    sure = np.full(flags.shape, confidence, np.float32)
    return Trace(flags, sure, np.array([len(matched)]))


def trace_of_rate(rate: float, count: int, rng: Random) -> Trace:
    """A trace whose tokens match with a given probability."""
    return trace("".join("x" if rng.random() < rate else "." for _ in range(count)))
