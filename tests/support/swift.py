"""SWIFT drafters on tables, and drafts of known confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.swift import SwiftDrafter
from skipopt.rounds import Round
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.verification.match import Match
from support.table_engine import MASK, TableEngine

GREEDY = SamplingOptions()


SAMPLED = SamplingOptions(temperature=0.9, seed=2)


VOCABULARY = 16


FAST = {
    "tune_mask": False,
    "auto_disable": False,
    "cost_aware": False,
}  # independent of the clock


def on_tables(engine: TableEngine, **options: Any) -> SwiftDrafter:
    return SwiftDrafter(engine.target, MASK, **{**FAST, **options})


def state_of(
    engine: Any, tokens: Sequence[int], options: SamplingOptions = GREEDY, coupled: bool = True
) -> DraftState:
    return DraftState(list(tokens), engine, TokenSampler(options, torch.device("cpu"), coupled))


def sure_of(*confidences: float) -> TableEngine:
    """An engine whose draft gives token i + 1 after token i the i-th of these probabilities."""
    table = torch.zeros(VOCABULARY, VOCABULARY)
    for token, chance in enumerate(confidences):
        rest = (1 - chance) / (VOCABULARY - 1)
        # Slightly falling, so that the order of the others is known.
        table[token] = rest * (1 - 1e-3 * torch.arange(VOCABULARY))
        table[token, token + 1] = chance
    return TableEngine(table.log(), table.log())


EAGER = (
    "swift:tau=0.2:max_depth=5:score_tokens=4:search_overhead=1.0:cost_aware=no:auto_disable=no"
)


def rounds_on(engine: TableEngine, drafter: Drafter, count: int = 400) -> list[Round]:
    """Decode with positional noise, so that the text does not repeat itself."""
    engine.rewind(0)
    chosen: Any = engine
    limits = Limits(count, 10 * count)
    return list(decode(chosen, [1], drafter, SAMPLED, limits, Match()))
