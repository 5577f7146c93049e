"""The arithmetic of states agrees with what a model allocates."""

from __future__ import annotations

from transformers import Qwen3NextConfig

from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from tools.state_memory import StateMemory, section
from tools.tiny_models import tiny_model


def test_the_arithmetic_is_what_a_tiny_model_allocates() -> None:
    target = make_target(tiny_model("qwen3_next"), None, runtime="eager")
    engine, slots = Engine(target, 32, captured=False), 32
    engine.prefill([1, 2, 3, 4, 5])
    assert engine.states is not None
    before = engine.states.allocated_bytes
    engine.step([6, 7, 8])  # several rows, so that the states are copied before
    copy = engine.states.allocated_bytes - before
    found = StateMemory.of(target.model.config, 4)
    assert (before, copy) == (found.copy, found.copy)
    assert engine.cache.allocated_bytes == slots * found.keys_and_values


def test_the_page_says_what_the_model_of_80_billion_weights_needs() -> None:
    """36 recurrent layers of 32 heads with states of 128 × 128; 12 of attention."""
    found = StateMemory.of(Qwen3NextConfig(), 2)
    assert found.recurrences == 36 * 32 * 128 * 128 * 4
    assert found.convolutions == 36 * (2 * 16 + 32) * 128 * 4 * 2
    assert found.keys_and_values == 12 * 2 * 2 * 256 * 2
    assert f"{found.copy:,}" in section()
