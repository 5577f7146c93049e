"""What a target says about its model."""

from __future__ import annotations

from support.tiny import tiny_target


def test_a_target_is_shown_in_one_line() -> None:
    target = tiny_target()
    shown = repr(target)
    assert "\n" not in shown
    assert len(shown) < 100
    for part in (target.model_id, target.architecture, f"{target.depth} layers", "float32", "cpu"):
        assert part in shown
