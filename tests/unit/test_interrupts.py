"""Signals that end a command raise once, wait where they must, and are never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skipopt import interrupts
from skipopt.interrupts import (
    STOP_SIGNALS,
    interrupts_held,
    one_interrupt_noted,
    stop_signals,
)

SECONDS = 5.0


@pytest.fixture(autouse=True)
def handlers_stay() -> Iterator[None]:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    yield
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def send(number: int) -> None:
    """Send a signal to this process, and let its handler run."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_signal_is_an_interrupt_with_its_number(number: int) -> None:
    with stop_signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            send(number)
        assert signals.first == number


def test_further_signals_are_ignored_for_a_moment_and_the_first_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stop_signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGHUP)
        send(signal.SIGTERM)
        send(signal.SIGHUP)
        monkeypatch.setattr(interrupts, "PATIENCE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert signals.first == signal.SIGHUP


def test_a_signal_waits_for_the_end_of_what_must_not_be_half_done() -> None:
    done = []

    def write() -> None:
        with interrupts_held():
            with interrupts_held():
                send(signal.SIGINT)
            done.append("written")

    with stop_signals():
        with pytest.raises(KeyboardInterrupt):
            write()
        assert done == ["written"]
        with interrupts_held():
            pass  # nothing is left of it


def test_an_error_is_not_hidden_by_a_signal_that_waits() -> None:
    def write() -> None:
        with interrupts_held():
            send(signal.SIGINT)
            raise OSError("full")

    with stop_signals(), pytest.raises(OSError, match="full"):
        write()


def test_an_interrupt_that_a_callback_swallows_comes_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Callback:
        """Runs where an exception cannot be raised, as at-fork hooks of libraries do."""

        def __del__(self) -> None:
            send(signal.SIGTERM)

    def run() -> None:
        callback = Callback()
        del callback
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(0.01)

    with stop_signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            run()
        assert signals.first == signal.SIGTERM
    assert capsys.readouterr().err == ""


def test_a_signal_while_torch_is_imported_waits_for_its_end() -> None:
    """A signal inside `_c10d_init` of torch, which aborts where Python raises."""
    code = """
import os, signal, sys
from skipopt.interrupts import stop_signals

inside = False

def send(frame, event, argument):
    global inside
    inside = inside or event == "c_call" and argument.__name__ == "_c10d_init"
    if inside and event == "call":
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGTERM)

try:
    with stop_signals() as signals:
        sys.setprofile(send)
        import torch
        import time
        assert inside, "torch has no such function any more"
        time.sleep(10)
except KeyboardInterrupt:
    sys.exit(f"ended by {signals.first.name}, torch is whole: {torch.ones(1).numpy()}")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stderr == "ended by SIGTERM, torch is whole: [1.]\n"


def test_a_signal_that_is_ignored_from_the_start_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as signals:
            send(signal.SIGHUP)
            assert signals.first is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signals_while_the_process_ends_do_not_change_its_status(number: int) -> None:
    code = f"""
import os, sys, time
from skipopt.interrupts import stop_signals
try:
    with stop_signals(ends_process=True):
        os.kill(os.getpid(), {int(number)})
        time.sleep(10)
except KeyboardInterrupt:
    os.kill(os.getpid(), {int(number)})
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7


def test_one_ctrl_c_may_be_noted_and_a_second_one_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    with stop_signals() as signals:
        with one_interrupt_noted() as noted:
            assert not noted.is_noted
            send(signal.SIGINT)
            assert noted.is_noted
            send(signal.SIGINT)  # one end may come as several signals
            monkeypatch.setattr(interrupts, "NOTED_PATIENCE", 0.0)
            with pytest.raises(KeyboardInterrupt):
                send(signal.SIGINT)
            send(signal.SIGINT)  # after one that ends the process the patience is the usual one
        with one_interrupt_noted() as noted:
            assert not noted.is_noted
        monkeypatch.setattr(interrupts, "PATIENCE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert signals.first == signal.SIGINT


def test_what_is_noted_does_not_hide_why_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "PATIENCE", 0.0)
    with stop_signals() as signals, one_interrupt_noted():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
        assert signals.first == signal.SIGTERM


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_in_a_text_that_exec_runs_leaves_the_exit_status_alone(
    number: int, tmp_path: Path
) -> None:
    # `python -m` remembers a KeyboardInterrupt that left such a text, and ends by SIGINT.
    (tmp_path / "script.py").write_text(
        f"""
import os, sys, time
from skipopt.interrupts import stop_signals
try:
    with stop_signals(ends_process=True):
        exec("os.kill(os.getpid(), {int(number)}); time.sleep(10)")
except KeyboardInterrupt:
    sys.exit(7)
"""
    )
    command = [sys.executable, "-m", "script"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    assert subprocess.run(command, env=environment).returncode == 7


@pytest.mark.parametrize("number", sorted(set(STOP_SIGNALS) - {signal.SIGINT}))
def test_only_ctrl_c_is_noted(number: int) -> None:
    with stop_signals() as signals, one_interrupt_noted():
        with pytest.raises(KeyboardInterrupt):
            send(number)
        assert signals.first == number
