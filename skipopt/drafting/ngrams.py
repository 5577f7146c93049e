"""The n-gram pool of lookahead decoding (Fu et al., arXiv 2402.02057, §3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from skipopt.drafting.tree import DraftTree


class Ngram(NamedTuple):
    """The tokens that followed a first token.

    Attributes:
        tokens: without the first one, which is the key of the pool.
        source: a word for where it was found.
    """

    tokens: tuple[int, ...]
    source: str


class NgramPool:
    """For each first token, the `size` n-grams that were added last."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[int, dict[tuple[int, ...], str]] = {}

    def add(self, key: int, ngram: Ngram) -> None:
        """Add an n-gram, or make it the newest again."""
        held = self._known.setdefault(key, {})
        held.pop(ngram.tokens, None)
        held[ngram.tokens] = ngram.source
        if len(held) > self._size:
            del held[next(iter(held))]

    def latest(self, key: int) -> list[Ngram]:
        """The n-grams of this first token, newest first."""
        held = self._known.get(key, {})
        return [Ngram(*each) for each in reversed(held.items())]


def merged(ngrams: Iterable[Ngram], depth: int) -> DraftTree:
    """A tree of their first `depth` tokens, in which common beginnings are one branch."""
    nodes: dict[tuple[int, int], int] = {}  # (parent, token) -> node
    sources: list[str] = []
    for tokens, source in ngrams:
        parent = -1
        for token in tokens[:depth]:
            if (parent, token) not in nodes:
                nodes[parent, token] = len(nodes)
                sources.append(source)
            parent = nodes[parent, token]
    places = tuple(nodes)
    return DraftTree(
        tuple(token for _, token in places),
        tuple(parent for parent, _ in places),
        sources=tuple(sources),
    )
