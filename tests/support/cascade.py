"""A cascade drafter on tables."""

from __future__ import annotations

from typing import Any

from skipopt.drafting.cascade import CascadeDrafter
from support.table_engine import MASK, TableEngine


def cascade(engine: TableEngine, short_drafts: bool = False, **options: Any) -> CascadeDrafter:
    """A cascade whose drafts have γ tokens, since their steps are known to take no time.

    Args:
        short_drafts: nothing is known, and drafts end where a step does not pay.
    """
    drafter = CascadeDrafter(engine.target, MASK, **{"gamma": 3, **options})
    for _ in range(0 if short_drafts else 40):
        drafter.online_state.draft_step.add_seconds(1e-6)
    return drafter
