"""Races of kernels whose end is known before: no machine decides what a test sees."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from skipopt.kernels import packed_linear, quantized_linear

Operations = list[Callable[[Tensor], Tensor]]


def let_quantised_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer that a kernel here can multiply in fewer bits is."""

    def race(operations: Operations, given: Tensor) -> float:
        return 0.5 if "_int" in operations[0].__qualname__ else 1.0

    monkeypatch.setattr(quantized_linear, "_race", race)


def let_packed_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer that can be packed is, where torch can do it at all."""

    def race(operations: Operations, *_: object) -> float:
        return 0.5 if "_packed" in operations[0].__qualname__ else 1.0

    monkeypatch.setattr(packed_linear, "_race", race)
