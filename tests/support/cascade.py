"""A cascade drafter on tables."""

from __future__ import annotations

from typing import Any

from skipopt.drafting.cascade import CascadeDrafter
from support.table_engine import MASK, TableEngine


def cascade(engine: TableEngine, **options: Any) -> CascadeDrafter:
    return CascadeDrafter(engine.target, MASK, **{"gamma": 3, **options})
