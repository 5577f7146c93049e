"""Fixtures that several folders use."""

from __future__ import annotations

import pytest

from skipopt.kernels import packed_linear


@pytest.fixture
def packed_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever weights can be packed, that is the faster way."""
    monkeypatch.setattr(
        packed_linear, "_race", lambda operations, *_: "_packed" not in operations[0].__qualname__
    )
