"""Drafters with known proposals, and decoding with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits, new_engine
from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.rounds import Round
from skipopt.sampling import SamplingOptions

GREEDY = SamplingOptions()
LENGTH = 24


class Scripted(Drafter):
    """Proposes `guess(tokens so far)`, cut to γ and the limit.

    With `wrong` > 0 it proposes a tree: each guess has that many wrong siblings before it, each of
    them with children.
    """

    def __init__(
        self, guess: Callable[[list[int]], Sequence[int]], gamma: int, wrong: int = 0
    ) -> None:
        self.guess = guess
        self.gamma = gamma
        self.wrong = wrong
        self.max_extra_rows = gamma * (1 + 2 * wrong)
        self.outcomes: list[RoundOutcome] = []

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        guesses = self.guess(state.tokens)[: min(self.gamma, limit)]
        if not self.wrong:
            return DraftTree.chain(guesses)
        return tree_around(list(guesses), self.wrong)

    def observe(self, outcome: RoundOutcome) -> None:
        self.outcomes.append(outcome)


def tree_around(guesses: list[int], wrong: int, vocabulary: int = 64) -> DraftTree:
    """A tree as deep as there are guesses.

    Each guess is its parent's last child; each wrong sibling has the next guess as a child.
    """
    tokens: list[int] = []
    parents: list[int] = []
    parent = -1
    for depth, guess in enumerate(guesses):
        first = len(tokens)
        tokens += [(guess + 2 + i) % vocabulary for i in range(wrong)]
        parents += [parent] * wrong
        if depth + 1 < len(guesses):
            tokens += [guesses[depth + 1]] * wrong
            parents += range(first, first + wrong)
        tokens.append(guess)
        parents.append(parent)
        parent = len(tokens) - 1
    return DraftTree(tuple(tokens), tuple(parents))


def follows(text: list[int], wrong_from: int = 10**9, vocabulary: int = 64) -> Callable:
    """Guesses the continuation of `text`; wrong tokens from the n-th guess of a round on."""

    def guess(tokens: list[int]) -> list[int]:
        right = text[len(tokens) :]
        return [t if i < wrong_from else (t + 1) % vocabulary for i, t in enumerate(right)]

    return guess


def run(
    target: Target,
    prompt: list[int],
    drafter: Drafter,
    count: int = LENGTH,
    eos: Sequence[int] = (),
    context: int = 256,
) -> list[Round]:
    limits = Limits(count, context, frozenset(eos))
    engine = new_engine(target, prompt, limits, drafter.max_extra_rows)
    return list(decode(engine, prompt, drafter, GREEDY, limits))


def emitted(rounds: Sequence[Round]) -> list[int]:
    return [token for round_ in rounds for token in round_.emitted]


def skip(target: Target, name: str, gamma: int, tau: float = 0.0) -> LayerSkipDrafter:
    depth = target.depth
    masks = {
        "always accepted": SkipMask.empty(depth),
        "sometimes accepted": SkipMask.of(depth, attention=[1]),
        "hardly ever accepted": SkipMask.of(depth, range(depth), range(depth)),
    }
    return LayerSkipDrafter(target, masks[name], gamma, tau)
