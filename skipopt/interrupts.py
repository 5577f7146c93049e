"""Signals that end a command: Ctrl-C, and what a closing terminal or a service manager sends."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
PATIENCE = 1.0  # seconds after a signal in which others are ignored: several may come for one end
NOTED_PATIENCE = 0.2  # the same after one that was only noted
RAISE_AGAIN = 0.05  # seconds after which an exception that could not be raised comes again
# While it is imported, an exception from a handler aborts the process: torch's C++ calls Python
# from functions that must not throw (`torch._C._c10d_init`), or goes on without numpy.
NOT_INTERRUPTED = "torch"


class StopSignal(KeyboardInterrupt):
    """One of `STOP_SIGNALS` came.

    `python -m` ends by SIGINT, and not with its exit status, after a KeyboardInterrupt has left
    a text that `exec` ran, as dataclasses do; it has no such rule for a subclass.
    """


class Interrupts:
    """Raises `StopSignal` in the main thread for each signal, unless it is held back.

    Attributes:
        first: the first signal that came.
        is_noted: whether a Ctrl-C came that was only noted (`one_interrupt_noted`).
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._last = float("-inf")  # when the last one came
        self._holding = 0  # blocks that hold signals back
        self._is_waiting = False
        self._is_swallowed = False
        self._is_noting = self._last_is_noted = False
        self.is_noted = False

    def reset(self) -> None:
        """Forget the signals of an earlier command."""
        self.first, self._last = None, float("-inf")
        self._holding, self._is_waiting, self._is_swallowed = 0, False, False
        self._is_noting = self._last_is_noted = self.is_noted = False

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """Handler of the signals."""
        again, self._is_swallowed = self._is_swallowed, False
        patience = min(PATIENCE, NOTED_PATIENCE) if self._last_is_noted else PATIENCE
        if not again and time.monotonic() - self._last < patience:
            return
        self._last = time.monotonic()
        self._last_is_noted = number == signal.SIGINT and self._is_noting and not self.is_noted
        if self._last_is_noted:
            self.is_noted = True
            return
        self.first = self.first or signal.Signals(number)
        if self._holding:
            self._is_waiting = True
        elif _is_being_imported(NOT_INTERRUPTED):
            self.raise_again()
        else:
            raise StopSignal

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a signal waits for the end of the block."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
        if self._is_waiting and not self._holding:
            self._is_waiting = False
            raise StopSignal

    @contextmanager
    def one_noted(self) -> Iterator[Interrupts]:
        """Inside, the first Ctrl-C only sets `is_noted`; a second one raises as usual."""
        self._is_noting, self.is_noted = True, False
        try:
            yield self
        finally:
            self._is_noting = False

    def raise_again(self) -> None:
        """Handle the signal once more soon: now nobody would receive the exception."""
        self._is_swallowed = True
        number = self.first or signal.SIGINT
        threading.Timer(RAISE_AGAIN, lambda: _thread.interrupt_main(number)).start()


def _is_being_imported(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))  # of importlib, until the import ends


_interrupts = Interrupts()  # of the process, as its signal handlers are


@contextmanager
def stop_signals(ends_process: bool = False) -> Iterator[Interrupts]:
    """Inside, each of `STOP_SIGNALS` raises `StopSignal` in the main thread.

    A signal that this process was started to ignore (`nohup`) stays ignored. An exception that is
    lost in a callback of a library, which cannot raise, is raised again instead of printed.

    Args:
        ends_process: whether nothing but the end of the process follows. If a signal came, later
            ones are then ignored: they would change the exit status.
    """
    if threading.current_thread() is not threading.main_thread():
        yield _interrupts
        return
    _interrupts.reset()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _interrupts.handle)
    print_unraisable, sys.unraisablehook = sys.unraisablehook, _unraisable(sys.unraisablehook)
    try:
        yield _interrupts
    finally:
        sys.unraisablehook = print_unraisable
        ignore = ends_process and _interrupts.first is not None
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ignore else handler)


def _unraisable(otherwise: Any) -> Any:
    def hook(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _interrupts.raise_again()
        else:
            otherwise(unraisable)

    return hook


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Inside, in the main thread, a signal of `stop_signals` waits for the end of the block.

    For what must not be left half done, such as the writing of a result.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _interrupts.held():
        yield


@contextmanager
def one_interrupt_noted() -> Iterator[Interrupts]:
    """Inside, the first Ctrl-C of `stop_signals` only sets `is_noted`; a second one raises."""
    with _interrupts.one_noted() as noted:
        yield noted


@contextmanager
def signals_blocked() -> Iterator[None]:
    """A process started in this block receives no stop signal until it asks for them.

    The signals reach this process nevertheless, at the end of the block at the latest.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_by_parent_only() -> None:
    """In a worker process: its parent decides when it ends; SIGTERM still ends it at once."""
    for number in STOP_SIGNALS:
        default = number == getattr(signal, "SIGTERM", None)
        signal.signal(number, signal.SIG_DFL if default else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
