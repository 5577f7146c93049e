"""Progress on stderr: a live display on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from skipopt.cli.output import Output, make_console, without_controls

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

SECONDS_BETWEEN_LINES = 5.0
REFRESHES_PER_SECOND = 8
BAR_WIDTH = 30

Details = Callable[[], "RenderableType"]


class Display:
    """Context manager that shows the progress of a command.

    On a terminal the display is redrawn in place. Otherwise a line is printed when the heading
    changes, else at most one every five seconds, and none twice in a row.
    """

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._live: Live | None = None
        self._heading: str | None = None
        self._text = ""
        self._last_line = float("-inf")

    def __enter__(self) -> Self:
        if self._output.live:
            from rich.live import Live

            console = make_console(stderr=True)
            rate = REFRESHES_PER_SECOND
            self._live = Live(console=console, refresh_per_second=rate, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, heading: str, line: str, details: Details | None = None) -> None:
        """Show the current state. Cheap enough to call at every step.

        Args:
            details: returns what to show below the line, on a terminal only.
        """
        if self._live is not None:
            self._draw(f"{heading}: {line}", details)
        elif heading != self._heading or self._clock() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._heading, self._last_line = heading, self._clock()
            if (text := f"{heading}: {line}") != self._text:
                self._text = text
                self._output.note(text)

    def _draw(self, line: str, details: Details | None) -> None:
        from rich.console import Group
        from rich.text import Text

        assert self._live is not None
        parts: list[RenderableType] = [Text(line)]
        if details is not None:
            parts.append(details())
        self._live.update(without_controls(Group(*parts)))

    def counter(self, heading: str, unit: str = "") -> Callable[[float, float], None]:
        """A callback `(done, total)` that shows a progress bar; `unit` follows the numbers."""

        def show(done: float, total: float) -> None:
            share = min(1.0, done / total) if total else 1.0
            filled = round(share * BAR_WIDTH)
            bar = "█" * filled + "░" * (BAR_WIDTH - filled)
            self.show(heading, f"{bar} {done:.0f} of {total:.0f}{unit}")

        return show


def duration(seconds: float) -> str:
    """A time like `8 s` or `2 min 05 s`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
