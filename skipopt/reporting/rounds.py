"""Rounds as lines: what was drafted, accepted, refused, and what the target said itself.

Colour and a symbol each, so that nothing is lost without colours. Decodes and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.text import Text

from skipopt.rounds import Round

Decode = Callable[[list[int]], str]

ACCEPTED, REFUSED, CORRECTION, BONUS = "✓", "✗", "→", "+"
STYLES = {ACCEPTED: "green", REFUSED: "red strike", CORRECTION: "yellow", BONUS: "cyan"}
MEANINGS = {
    ACCEPTED: "accepted",
    REFUSED: "rejected",
    CORRECTION: "the target's correction",
    BONUS: "the target's next token",
}
# Tokens are told apart by spaces between them, so their own blanks must be seen.
VISIBLE = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def labelled(round_: Round) -> Iterator[tuple[str, int]]:
    """(symbol, token) of everything the round drafted and said.

    Accepted drafts behind an end of text or a stop string were not emitted, and are left out.
    """
    accepted = round_.emitted[: round_.accepted]
    refused = round_.drafted[round_.accepted :]
    yield from ((ACCEPTED, token) for token in accepted)
    yield from ((REFUSED, token) for token in refused)
    own = CORRECTION if refused else BONUS
    yield from ((own, token) for token in round_.emitted[round_.accepted :])


def round_line(number: int, round_: Round, decode: Decode) -> Text:
    """One round, e.g. ` 3  ✓def ✓·main ✗( →():`."""
    line = Text()
    line.append(f"{number:>4} ", style="dim")
    for symbol, token in labelled(round_):
        line.append(" ")
        line.append(symbol, style=STYLES[symbol].removesuffix(" strike"))
        line.append(visible(decode([token])), style=STYLES[symbol])
    return line


def visible(text: str) -> str:
    """Blanks as signs, control characters escaped."""
    return "".join(VISIBLE.get(c) or (c if c.isprintable() else repr(c).strip("'")) for c in text)


def legend() -> Text:
    """What each symbol means."""
    parts = (Text(f"{symbol} {MEANINGS[symbol]}", STYLES[symbol]) for symbol in MEANINGS)
    return Text("   ").join(parts)
