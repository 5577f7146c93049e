"""Guesses of several sources in one draft tree, and how many of its rows pay.

Each guess has a probability of being accepted, given that its parent was. The tree takes the most
probable paths first, as in `best_first`; as many of its rows pay as gain more tokens than are
decoded in the time that they add to the verification.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from skipopt.drafting.tree import DraftTree

ROOT = -1  # the current token
DRAFTED = "drafted"  # the source of guesses that the model has drafted in this round
MAX_ROWS = 32  # enough for guesses beside those of a chain


@dataclass(frozen=True, slots=True)
class Guess:
    """A token that may follow another one.

    Attributes:
        token: its id.
        chance: the probability that it is accepted if its parent is.
        source: a word for where it came from.
        alternatives: other tokens in its place.
    """

    token: int
    chance: float
    source: str
    alternatives: tuple[Guess, ...] = ()


# What else may follow a token, beside the guess of the trunk and its alternatives, if any.
Beside = Callable[[int, Sequence[Guess]], Iterable[Guess]]


def nothing_beside(token: int, others: Sequence[Guess]) -> Iterable[Guess]:
    """No guesses but those of the trunk."""
    return ()


class _Candidate(NamedTuple):
    """A guess that may be taken next.

    Attributes:
        cost: minus the probability of its path.
        order: of two equal costs, the one that came first is taken first.
        trunk: what follows it there.
    """

    cost: float
    order: int
    parent: int
    level: int
    guess: Guess
    trunk: Sequence[Guess]


@dataclass(slots=True)
class GuessTree:
    """A trunk of guesses, each of which follows the one before, and other guesses beside it.

    Args:
        current: the token of the root.
        trunk: the chain below the root; alternatives of its guesses stand beside them.
        beside: guesses beside each token of the trunk, and below all others.
        depth: most levels.
        most: guesses.
        least: less probable paths that leave the trunk are left out.

    Attributes:
        guesses: the most probable paths first.
        parents: of each guess, the index of its parent; −1 is the root.
        chances: of each guess, the probability of its path; they never rise.
    """

    current: int
    trunk: Sequence[Guess]
    beside: Beside
    depth: int
    most: int = MAX_ROWS
    least: float = 0.0
    guesses: list[Guess] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    _heap: list[_Candidate] = field(default_factory=list)
    _pushed: int = 0

    def __post_init__(self) -> None:
        self._push_children(ROOT, self.current, 1.0, 1, self.trunk)
        while self._heap and len(self.guesses) < self.most:
            taken = heapq.heappop(self._heap)
            self.guesses.append(taken.guess)
            self.parents.append(taken.parent)
            self.chances.append(-taken.cost)
            node = len(self.guesses) - 1
            self._push_children(node, taken.guess.token, -taken.cost, taken.level + 1, taken.trunk)

    def _push_children(
        self, parent: int, token: int, chance: float, level: int, trunk: Sequence[Guess]
    ) -> None:
        """The guesses below a node become candidates."""
        if level > self.depth:
            return
        others: tuple[Guess, ...] = ()
        if trunk:
            others = (trunk[0], *trunk[0].alternatives)
            self._push(parent, level, trunk[0], chance, trunk[1:])
        for guess in (*others[1:], *self.beside(token, others)):
            if chance * guess.chance >= self.least:
                self._push(parent, level, guess, chance, ())

    def _push(
        self, parent: int, level: int, guess: Guess, chance: float, trunk: Sequence[Guess]
    ) -> None:
        cost = -chance * guess.chance
        self._pushed += 1
        heapq.heappush(self._heap, _Candidate(cost, self._pushed, parent, level, guess, trunk))

    @property
    def chain_length(self) -> int:
        """How many of the first guesses each follow the one before."""
        beside = (i for i, parent in enumerate(self.parents) if parent != i - 1)
        return next(beside, len(self.parents))

    def rows_that_pay(
        self, seconds: Sequence[float], rate: float, doubt: float = 1.0, at_least: int = 0
    ) -> tuple[int, float]:
        """How many rows gain most, and the tokens that they gain; (0, 0) if none do.

        Args:
            seconds: of the verification with 0, 1, … all of the rows.
            rate: tokens per second that are decoded otherwise.
            doubt: guesses that are not `DRAFTED` must gain so many times what they cost.
            at_least: rows that are verified in any case.
        """
        rate *= doubt
        sure = (doubt if guess.source == DRAFTED else 1.0 for guess in self.guesses)
        tokens = accumulate((c * s for c, s in zip(self.chances, sure, strict=True)), initial=0.0)
        gains = [t - rate * (s - seconds[0]) for t, s in zip(tokens, seconds, strict=True)]
        count = max(range(min(at_least, len(gains) - 1), len(gains)), key=gains.__getitem__)
        return count, gains[count]

    def draft(self, count: int, forwards: int = 0) -> DraftTree:
        """The first `count` guesses as a draft.

        Args:
            forwards: draft forwards used.
        """
        taken = self.guesses[:count]
        return DraftTree(
            tuple(guess.token for guess in taken),
            tuple(self.parents[:count]),
            forwards=forwards,
            sources=tuple(guess.source for guess in taken),
        )
