"""Kernel timings with a known result, so that no test depends on the machine's speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from torch import Tensor

from skipopt.kernels import packed_linear, quantized_linear

Operations = Sequence[Callable[[Tensor], Tensor]]


def prefer_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every layer quantized for which this device has a kernel."""

    def seconds(operations: Operations, *_: object) -> float:
        quantized = operations[0].__qualname__.startswith(("int", "_layer."))
        return 0.5 if quantized else 1.0

    monkeypatch.setattr(quantized_linear, "measure_seconds", seconds)


def prefer_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every linear layer packed that torch can pack."""
    monkeypatch.setattr(packed_linear, "measure_seconds", packed_is_faster)


def packed_is_faster(operations: Operations, *_: object) -> float:
    return 0.5 if is_packed(operations[0]) else 1.0


def is_packed(operation: Callable[[Tensor], Tensor]) -> bool:
    return "pack_linear" in operation.__qualname__
