"""When speculation is paused and resumed."""

from __future__ import annotations

import pytest

from skipopt.online.config import OnlineConfig
from skipopt.online.gate import SpeculationGate

CONFIG = OnlineConfig()


def play(
    gate: SpeculationGate, rounds: int, tokens: int, seconds: float, plain: float = 1.0
) -> str:
    """Observe rounds: `d` with a draft, `.` without."""
    shown = ""
    for _ in range(rounds):
        if gate.wants_draft:
            gate.observe_drafted(tokens, seconds)
            shown += "d"
        else:
            gate.observe_plain(plain)
            shown += "."
    return shown


def test_second_round_is_plain_to_measure_a_plain_step() -> None:
    assert play(SpeculationGate(), 5, tokens=3, seconds=1.5) == "d.ddd"


def test_drafts_that_pay_continue_and_plain_steps_are_remeasured() -> None:
    shown = play(SpeculationGate(), 2 + 3 * (CONFIG.plain_every + 1), tokens=3, seconds=1.5)
    assert shown == "d." + 3 * ("d" * CONFIG.plain_every + ".")


def test_drafts_that_lose_are_paused_after_the_first_rounds() -> None:
    shown = play(SpeculationGate(), 60, tokens=1, seconds=1.5)
    assert shown.startswith("d." + "d" * CONFIG.gate_rounds + "." * CONFIG.first_pause + "d")


def test_pauses_double_and_stay_below_the_longest() -> None:
    shown = play(SpeculationGate(), 4000, tokens=1, seconds=1.5).split("d" * CONFIG.gate_rounds)[
        1:
    ]
    pauses = [len(part) for part in shown[:-1]]
    assert pauses == [
        min(CONFIG.first_pause * 2**i, CONFIG.longest_pause) for i in range(len(pauses))
    ]
    assert pauses[-1] == CONFIG.longest_pause


def test_drafts_that_pay_again_are_resumed() -> None:
    gate = SpeculationGate()
    assert play(gate, 2 + CONFIG.gate_rounds + 4, tokens=1, seconds=1.5).endswith("....")
    later = play(gate, CONFIG.first_pause + 2 * CONFIG.plain_every, tokens=3, seconds=1.5)
    assert later.strip(".").startswith("d" * CONFIG.plain_every + "." + "d")


def test_the_first_pause_is_short_again_once_drafts_paid() -> None:
    gate = SpeculationGate()
    play(gate, 300, tokens=1, seconds=1.5)
    while not gate.wants_draft:
        gate.observe_plain(1.0)
    play(gate, CONFIG.plain_every // 2, tokens=3, seconds=1.5)
    shown = play(gate, 500, tokens=1, seconds=4.0)
    assert "d" + "." * CONFIG.first_pause + "d" in shown


def test_a_loss_within_the_noise_does_not_pause() -> None:
    """Alternating rounds of 1 and 3 tokens lose less than their standard error."""
    gate = SpeculationGate()
    gate.observe_plain(1.0)
    for i in range(12):
        gate.observe_drafted(1 + 2 * (i % 2), 2.05)
    assert gate.enabled
    for _ in range(12):
        gate.observe_drafted(2, 2.9)
    assert not gate.enabled


def test_one_slow_round_does_not_end_drafting() -> None:
    gate = SpeculationGate()
    play(gate, 30, tokens=3, seconds=1.5)
    gate.observe_drafted(1, 20.0)
    assert gate.enabled


def lose(gate: SpeculationGate) -> None:
    gate.observe_plain(1.0)
    while gate.enabled:
        gate.observe_drafted(1, 1.5)


def test_the_gate_reports_the_loss_and_the_number_of_pauses() -> None:
    gate = SpeculationGate()
    assert gate.loss is None
    assert gate.gain is None
    lose(gate)
    assert (gate.pauses, gate.loss) == (1, pytest.approx(0.5))
    for _ in range(CONFIG.first_pause):
        gate.observe_plain(1.0)
    assert gate.enabled
    assert gate.loss is not None, "on trial"
    for _ in range(CONFIG.gate_rounds):
        gate.observe_drafted(3, 1.5)
    assert gate.loss is None
    assert gate.gain == pytest.approx(1.5)
    assert gate.pauses == 1


def test_another_text_shortens_the_pause() -> None:
    gate = SpeculationGate()
    for _ in range(4):
        lose(gate)
        while not gate.enabled:
            gate.observe_plain(1.0)
    lose(gate)
    gate.text_changed()
    for _ in range(CONFIG.first_pause):
        assert not gate.enabled
        gate.observe_plain(1.0)
    assert gate.enabled


def test_drafts_that_changed_are_judged_anew() -> None:
    gate = SpeculationGate()
    gate.observe_plain(1.0)
    for _ in range(CONFIG.gate_rounds - 1):
        gate.observe_drafted(1, 1.5)
    gate.drafts_changed(promising=False)
    gate.observe_drafted(1, 1.5)
    assert gate.enabled, "one round is not enough"
    assert gate.gain is None


def test_a_pause_ends_at_once_where_the_new_drafts_are_promising() -> None:
    gate = SpeculationGate()
    lose(gate)
    gate.drafts_changed(promising=False)
    assert not gate.enabled
    gate.drafts_changed(promising=True)
    assert gate.wants_draft
    assert gate.loss is not None, "until they have paid"
    for _ in range(CONFIG.gate_rounds):
        gate.observe_drafted(1, 1.01)
    assert not gate.enabled, "on trial the mean alone decides"


def test_an_infinite_threshold_never_pauses() -> None:
    gate = SpeculationGate(OnlineConfig(gate_errors=float("inf")))
    assert "." not in play(gate, 40, tokens=1, seconds=9.0)[2:]
