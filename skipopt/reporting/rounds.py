"""Rounds as lines of text: tokens accepted, rejected, and the target's own.

A chain is one line. A tree is its accepted path, with a line below for each further rejected
branch, indented to the depth where it leaves. Each token has a color and a symbol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.text import Text

from skipopt.rounds import Round

Decode = Callable[[list[int]], str]

ACCEPTED, REJECTED, RECOVERED, BONUS = "✓", "✗", "→", "+"
STYLES = {ACCEPTED: "green", REJECTED: "red strike", RECOVERED: "yellow", BONUS: "cyan"}
MEANINGS = {
    ACCEPTED: "accepted",
    REJECTED: "rejected",
    RECOVERED: "recovered: the target's own after a rejection",
    BONUS: "bonus: the target's own after a fully accepted draft",
}
# Spaces separate tokens, so spaces inside tokens are drawn as signs.
VISIBLE = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
INDENT = " " * 4
NOT_BEGUN = "  (drafts do not pay yet)"


def labeled(round_: Round) -> Iterator[tuple[str, int]]:
    """(symbol, token) of the emitted tokens and of the first rejected line.

    Accepted drafts behind an end-of-text token or stop string were not emitted and are left out.
    """
    path = _path(round_)
    yield from ((ACCEPTED, token) for token in round_.emitted[: len(path)])
    rejected = _first_line(round_, path)
    yield from ((REJECTED, round_.drafted[i]) for i in rejected)
    own = RECOVERED if rejected else BONUS
    yield from ((own, token) for token in round_.emitted[len(path) :])


def branches(round_: Round) -> Iterator[tuple[int, list[int]]]:
    """(depth where it leaves the path, token indices) of each rejected branch but the first.

    `labeled` yields the first.
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
    """One round, e.g. ` 3  ✓def ✓·main ✗( →():`, then a line for each further branch."""
    line = Text()
    line.append(f"{number:>4} ", style="dim")
    for symbol, token in labeled(round_):
        _append(line, symbol, visible(decode([token])))
    line.append(NOT_BEGUN if round_.put_off else _source_counts(round_), style="dim")
    yield line
    for depth, nodes in branches(round_):
        line = Text(INDENT + "  " * depth + "└", style="dim")
        for node in nodes:
            _append(line, REJECTED, visible(decode([round_.drafted[node]])))
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
    """The first child below the end of the path, and its first descendants."""
    below = _children(round_, path[-1] if path else -1)
    return _line_from(round_, below[0]) if below else []


def _line_from(round_: Round, node: int) -> list[int]:
    """The node and its first descendants."""
    line = [node]
    while below := _children(round_, line[-1]):
        line.append(below[0])
    return line


def _source_counts(round_: Round) -> str:
    """`  (2 copied, 1 refined)`, by first appearance."""
    counts = {word: round_.sources.count(word) for word in dict.fromkeys(round_.sources)}
    return f"  ({', '.join(f'{n} {word}' for word, n in counts.items())})" if counts else ""


def visible(text: str) -> str:
    """Spaces as signs, control characters escaped."""
    return "".join(VISIBLE.get(c) or (c if c.isprintable() else repr(c).strip("'")) for c in text)


def legend() -> Text:
    """What each symbol means."""
    parts = (Text(f"{symbol} {MEANINGS[symbol]}", STYLES[symbol]) for symbol in MEANINGS)
    return Text("   ").join(parts)
