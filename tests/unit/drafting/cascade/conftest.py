"""Fixtures that several files of this folder use."""

from __future__ import annotations

import pytest
from support.table_engine import TableEngine, table_engine


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> TableEngine:
    return table_engine(monkeypatch)
