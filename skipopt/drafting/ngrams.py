"""N-grams by their first token, the latest few of each, and many of them as one tree.

The pool of lookahead decoding (Fu et al., arXiv 2402.02057, §3.2). Knows nothing of where n-grams
come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from skipopt.drafting.tree import DraftTree


class Ngram(NamedTuple):
    """What followed a token.

    Attributes:
        tokens: without the first one, which is the key.
        origin: a word for where it was seen.
    """

    tokens: tuple[int, ...]
    source: str


class NgramPool:
    """For each first token, the `size` n-grams that were added last.

    Adding one again makes it the newest.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[int, dict[tuple[int, ...], str]] = {}

    def add(self, key: int, ngram: Ngram) -> None:
        held = self._known.setdefault(key, {})
        held.pop(ngram.tokens, None)
        held[ngram.tokens] = ngram.source
        if len(held) > self._size:
            del held[next(iter(held))]

    def latest(self, key: int) -> list[Ngram]:
        """The newest first."""
        held = self._known.get(key, {})
        return [Ngram(*each) for each in reversed(held.items())]


def merged(ngrams: Iterable[Ngram], depth: int) -> DraftTree:
    """A tree of their first `depth` tokens, in which what begins alike is one branch."""
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
