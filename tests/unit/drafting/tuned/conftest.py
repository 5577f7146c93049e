"""Fixtures that several files of this folder use."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from support.tiny import tiny_llama, tiny_target
from support.tuned import (
    DEPTH,
    Clock,
    Timed,
)

from skipopt.decoding import loop
from skipopt.models.target import Target


@pytest.fixture(scope="module")
def target() -> Target:
    """Masks that skip much of it are refused often."""
    return tiny_target(tiny_llama(layers=DEPTH, context=2048))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=made))
    monkeypatch.setattr(Timed, "clock", made)
    return made
