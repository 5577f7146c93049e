"""Rounds as lines: what was drafted, accepted, refused, and what the target said itself.

A chain is one line; a tree is its accepted path, and below it a line for every refused branch,
indented to where it leaves. Colour and a symbol each, so that nothing is lost without colours.
Decodes and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
INDENT = " " * 4


def labelled(round_: Round) -> Iterator[tuple[str, int]]:
    """(symbol, token) of the line that was emitted, and of what was drafted after it.

    Accepted drafts behind an end of text or a stop string were not emitted, and are left out.
    """
    path = _path(round_)
    yield from ((ACCEPTED, token) for token in round_.emitted[: len(path)])
    refused = _first_line(round_, path)
    yield from ((REFUSED, round_.drafted[i]) for i in refused)
    own = CORRECTION if refused else BONUS
    yield from ((own, token) for token in round_.emitted[len(path) :])


def branches(round_: Round) -> Iterator[tuple[int, list[int]]]:
    """(depth at which it leaves, indices of its tokens) of every refused branch but the first.

    The first refused line after the accepted path belongs to `labelled`.
    """
    path = _path(round_)
    shown = {*path, *_first_line(round_, path)}
    depths = _depths(round_)
    for i in range(len(round_.drafted)):
        if i not in shown:
            line = _line_from(round_, i)
            shown.update(line)
            yield depths[i], line


def round_lines(number: int, round_: Round, decode: Decode) -> Iterator[Text]:
    """One round, e.g. ` 3  ✓def ✓·main ✗( →():`, and its further branches below."""
    line = Text()
    line.append(f"{number:>4} ", style="dim")
    for symbol, token in labelled(round_):
        _append(line, symbol, visible(decode([token])))
    line.append(_origins(round_), style="dim")
    yield line
    for depth, nodes in branches(round_):
        line = Text(INDENT + "  " * depth + "└", style="dim")
        for node in nodes:
            _append(line, REFUSED, visible(decode([round_.drafted[node]])))
        yield line


def _append(line: Text, symbol: str, text: str) -> None:
    line.append(" ")
    line.append(symbol, style=STYLES[symbol].removesuffix(" strike"))
    line.append(text, style=STYLES[symbol])


def _path(round_: Round) -> Sequence[int]:
    return round_.path or range(round_.accepted)


def _parents(round_: Round) -> Sequence[int]:
    return round_.parents or range(-1, len(round_.drafted) - 1)


def _children(round_: Round, node: int) -> list[int]:
    return [i for i, parent in enumerate(_parents(round_)) if parent == node]


def _depths(round_: Round) -> list[int]:
    depths: list[int] = []
    for parent in _parents(round_):
        depths.append(1 if parent < 0 else depths[parent] + 1)
    return depths


def _first_line(round_: Round, path: Sequence[int]) -> list[int]:
    """What would have come next had the path gone on: the eldest children below its end."""
    below = _children(round_, path[-1] if path else -1)
    return _line_from(round_, below[0]) if below else []


def _line_from(round_: Round, node: int) -> list[int]:
    """The node and its eldest descendants."""
    line = [node]
    while below := _children(round_, line[-1]):
        line.append(below[0])
    return line


def _origins(round_: Round) -> str:
    """`  (2 copied, 1 refined)`, in the order in which they first appear."""
    counts = {word: round_.sources.count(word) for word in dict.fromkeys(round_.sources)}
    return f"  ({', '.join(f'{n} {word}' for word, n in counts.items())})" if counts else ""


def visible(text: str) -> str:
    """Blanks as signs, control characters escaped."""
    return "".join(VISIBLE.get(c) or (c if c.isprintable() else repr(c).strip("'")) for c in text)


def legend() -> Text:
    """What each symbol means."""
    parts = (Text(f"{symbol} {MEANINGS[symbol]}", STYLES[symbol]) for symbol in MEANINGS)
    return Text("   ").join(parts)
