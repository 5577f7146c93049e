"""When a process begins to draft: as soon as drafts are expected to return what they cost first.

The first draft needs a step of its own, and with quantized weights copies of them. Until these pay
back, texts are decoded plainly. The text is the same either way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from skipopt.draft_config import WeightBits
from skipopt.masks import SkipMask

MARGIN = 1.5  # by which the gain in one text must exceed the cost: it may end early
# Drafts that were asked for begin some time, even if they were measured to lose.
LEAST_SPEEDUP = 1.05


@dataclass(frozen=True, slots=True)
class Preparation:
    """What drafts need that plain decoding does not: a step of their own, and copies of weights.

    Attributes:
        mask: sublayers that drafts skip.
        weights: bits of the quantized weights that drafts read; None for the model's own.
        vocab_size: tokens that drafts choose from; None for all.
    """

    mask: SkipMask
    weights: WeightBits | None = None
    vocab_size: int | None = None


def pays_back(gain: float, cost: float, tokens_left: int, tokens_put_off: int) -> bool:
    """Whether to prepare drafts now.

    Either the rest of this text returns the cost, or earlier texts have lost as much as it by
    plain decoding: whatever follows, about twice the least possible cost is then paid at most (the
    rule for renting or buying skis; Karlin et al., Algorithmica 3, 1988). Tokens of this text do
    not count there: drafts would begin near its end, and it would only lose.

    Args:
        gain: seconds that drafts save per token.
        cost: seconds that preparing takes.
        tokens_left: that this text may still get.
        tokens_put_off: of earlier texts, decoded plainly because drafts were not prepared.
    """
    return gain * tokens_left >= MARGIN * cost or gain * tokens_put_off >= cost


class BreakEven:
    """Which drafts of one model have been prepared, and what plain decoding took until then.

    Attributes:
        at_once: drafts begin with the first round, prepared or not.
        plain_seconds: of the fastest plain round; infinite before there was one.
        tokens_put_off: decoded plainly so far because drafts were not prepared.
    """

    def __init__(self) -> None:
        self.at_once = False
        self.forget()

    def forget(self) -> None:
        """Begin anew: what was prepared is gone."""
        self.plain_seconds = math.inf
        self.tokens_put_off = 0
        self._prepared: set[Preparation] = set()
        self._trees = False
        self._seconds_without_trees = 0.0

    def is_prepared(self, preparation: Preparation) -> bool:
        """Whether these drafts may begin without further cost."""
        return self.at_once or preparation in self._prepared

    def prepare(self, preparation: Preparation) -> None:
        """Note that these drafts begin now."""
        self._prepared.add(preparation)

    def observe_plain(self, tokens: int, seconds: float) -> None:
        """Take in a round without a draft because drafts were not prepared."""
        self.plain_seconds = min(self.plain_seconds, seconds)
        self.tokens_put_off += tokens

    def pays(self, speedup: float, cost: float, tokens_left: int, tokens_put_off: int) -> bool:
        """Whether to prepare drafts with this expected speedup. See `pays_back`."""
        if math.isinf(self.plain_seconds):
            return False
        gain = self.plain_seconds * (1 - 1 / max(speedup, LEAST_SPEEDUP))
        return pays_back(gain, cost, tokens_left, tokens_put_off)

    def may_verify_tree(self, gain: float, cost: float) -> bool:
        """Whether a round verifies a tree, which has a step of its own to be captured.

        Not before trees would have saved as much as their step takes, by the rule of `pays_back`.

        Args:
            gain: seconds that this one is expected to save beside a chain.
            cost: seconds that capturing a step takes.
        """
        if self.at_once or self._trees:
            return True
        self._seconds_without_trees += gain
        self._trees = self._seconds_without_trees >= cost
        return self._trees

    @contextmanager
    def drafting_at_once(self) -> Iterator[None]:
        """Inside, drafts begin with the first round. For measurements of the steady state."""
        before, self.at_once = self.at_once, True
        try:
            yield
        finally:
            self.at_once = before
