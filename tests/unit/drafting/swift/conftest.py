"""Fixtures that several files of this folder use."""

from __future__ import annotations

import pytest
from support.table_engine import TableEngine, table_engine
from support.tiny import tiny_llama, tiny_target

from skipopt.models.target import Target


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(layers=6))


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> TableEngine:
    return table_engine(monkeypatch)
