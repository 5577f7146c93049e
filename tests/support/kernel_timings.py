"""Kernel timings with a known result, so that no test depends on the machine's speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from torch import Tensor

from skipopt.kernels import packed_linear, quantized_linear
from skipopt.testing.architectures import seconds_of_kernels

Operations = Sequence[Callable[[Tensor], Tensor]]


def prefer_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every layer quantized for which this device has a kernel."""
    monkeypatch.setattr(quantized_linear, "measure_seconds", seconds_of_kernels)


def prefer_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every linear layer packed that torch can pack."""
    monkeypatch.setattr(packed_linear, "measure_seconds", packed_is_faster)


def packed_is_faster(operations: Operations, *_: object) -> float:
    return 0.5 if is_packed(operations[0]) else 1.0


def is_packed(operation: Callable[[Tensor], Tensor]) -> bool:
    return "pack_linear" in operation.__qualname__
