"""Fixtures that several folders use."""

from __future__ import annotations

import pytest
import torch
from support.kernel_timings import prefer_packed


@pytest.fixture
def packed_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every linear layer is packed; skips where torch cannot pack weights."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch cannot pack weights")
    prefer_packed(monkeypatch)
