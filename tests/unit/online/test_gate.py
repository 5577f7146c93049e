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


def test_drafts_that_lose_much_are_paused_after_the_first_rounds() -> None:
    shown = play(SpeculationGate(), 60, tokens=1, seconds=1.5)
    trial = "d" * CONFIG.early_rounds
    assert shown.startswith("d." + trial + "." * CONFIG.first_pause + trial + ".")


def lose_a_little(gate: SpeculationGate) -> int:
    """Rounds that lose 0.1 tokens in the mean, up to a pause; returns how many."""
    for done in range(1000):
        if not gate.enabled:
            return done
        gate.observe_drafted(1 + done % 2, 1.6)
    raise AssertionError("never paused")


def test_drafts_that_lose_a_little_have_the_whole_trial_and_a_short_pause() -> None:
    gate = SpeculationGate()
    gate.observe_plain(1.0)
    while gate.pauses < 5:
        rounds = lose_a_little(gate)
        assert rounds >= CONFIG.gate_rounds
        pause = 0
        while not gate.enabled:
            gate.observe_plain(1.0)
            pause += 1
    assert CONFIG.first_pause < pause <= 100 * rounds * 0.1 + 1 < CONFIG.longest_pause


@pytest.mark.parametrize("seconds", [1.5, 3.0, 6.0])
def test_trials_lose_one_percent_in_the_long_run(seconds: float) -> None:
    shown = play(SpeculationGate(), 20000, tokens=1, seconds=seconds)[300:]
    lost = shown.count("d") * (seconds - 1)
    assert lost <= 1.05 * CONFIG.loss_share * len(shown) + 20 * (seconds - 1)
    pauses = [len(part) for part in shown.split("d") if part]
    assert max(pauses) <= CONFIG.longest_pause
    assert shown.count("d") >= len(shown) / (CONFIG.longest_pause + CONFIG.gate_rounds)


def test_drafts_that_pay_again_are_resumed() -> None:
    gate = SpeculationGate()
    assert play(gate, 2 + CONFIG.early_rounds + 4, tokens=1, seconds=1.5).endswith("....")
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


def pause_of_another_text(gate: SpeculationGate) -> int:
    """Plain rounds from the beginning of another text."""
    gate.text_changed()
    rounds = 0
    while not gate.enabled:
        gate.observe_plain(1.0)
        rounds += 1
    return rounds


def test_another_text_shortens_the_pause_unless_drafts_lost_in_many_texts() -> None:
    gate = SpeculationGate()
    for _ in range(3):
        lose(gate)
        while not gate.enabled:
            gate.observe_plain(1.0)
    for _ in range(CONFIG.losing_texts - 1):
        lose(gate)
        assert pause_of_another_text(gate) == CONFIG.first_pause
    lose(gate)
    assert pause_of_another_text(gate) > CONFIG.first_pause
    for _ in range(CONFIG.gate_rounds):
        gate.observe_drafted(3, 1.5)
    assert pause_of_another_text(gate) == 0
    for _ in range(3 * CONFIG.plain_every):
        if gate.enabled:
            gate.observe_drafted(1, 1.5)
    assert pause_of_another_text(gate) == CONFIG.first_pause


def test_drafts_that_changed_are_judged_anew() -> None:
    gate = SpeculationGate()
    gate.observe_plain(1.0)
    for _ in range(CONFIG.early_rounds - 1):
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
