"""What the first text of a process spends before drafts run at full speed, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from skipopt.kernels.quantized_linear import QuantizedLinearCache
from skipopt.runtime import native_step, step_cache
from skipopt.runtime.native_code import Translation
from skipopt.runtime.native_translator import Translator

TRANSLATING = "translating them"
CHECKING = "comparing native steps with the model's modules"
PARTS: tuple[tuple[Any, str, str], ...] = (
    (native_step, "record", "recording steps"),
    (Translator, "translate", TRANSLATING),
    (Translation, "code", TRANSLATING),
    (step_cache, "first_rows_of_modules", CHECKING),
    (step_cache, "compare", CHECKING),
    (step_cache, "check_replay", CHECKING),
    (QuantizedLinearCache, "_choose", "timing quantized kernels"),
    (QuantizedLinearCache, "_make", "making and checking quantized copies"),
)


@contextmanager
def account() -> Iterator[dict[str, float]]:
    """Seconds of each of `PARTS` inside, without those of other parts that it calls."""
    seconds = {label: 0.0 for _, _, label in PARTS}
    inner: list[float] = [0.0]

    def timed(function: Callable[..., Any], label: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            inner.append(0.0)
            try:
                return function(*args, **options)
            finally:
                spent = time.perf_counter() - began
                seconds[label] += spent - inner.pop()
                inner[-1] += spent

        return call

    changes = [patch.object(o, name, timed(getattr(o, name), label)) for o, name, label in PARTS]
    for change in changes:
        change.start()
    try:
        yield seconds
    finally:
        for change in changes:
            change.stop()
