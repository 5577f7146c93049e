"""Round by round, whichever draft is expected to gain most: copied, the model's own, or none.

The idea of cascades that adapt (CAS-Spec, arXiv 2510.26843), simplified: a round copies from the
context, or drafts under the mask and copies on behind what was drafted, or does neither. Options
are compared by t − λ·s: expected tokens t and seconds s of the round, and λ the tokens a second
that decoding makes at present. By that rule a choice between rounds of unequal length raises the
overall rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.prompt_lookup import PromptLookupDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.online.gate import REFRESH
from skipopt.online.ngram_stats import LONGEST
from skipopt.online.state import OnlineState

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.masks import SkipMask
    from skipopt.models.target import Target


@dataclass(frozen=True, slots=True)
class Copy:
    """What the context would have follow.

    Attributes:
        tokens: to be copied.
        matched: how many tokens before them are the same here and there.
        behind: how many drafted tokens it goes on from.
    """

    tokens: tuple[int, ...] = ()
    matched: int = 0
    behind: int = 0


class CascadeDrafter(Drafter):
    """Copies where a copy is likely to stand, else drafts under the mask, else decodes plainly.

    How well a copy would have done is seen in every round, copied or not; whether drafts of the
    model pay is seen from rounds that had one. Choices depend on rounds that are over, and on no
    noise that verification will use, so sampling is not biased. They also depend on measured
    times; so drafts are matched unless rejection sampling is asked for: then texts are still
    distributed as the target's, but a seed does not repeat them.

    Args:
        mask, gamma, tau, exit_layer: as in `LayerSkipDrafter`.
        max_copy: most tokens of a copy.
        adaptation: what earlier texts taught: `online_state` of the drafter of a text before this.
        auto_disable: decode plainly while drafts of the model do not pay.

    Raises:
        UsageError: no mask and no exit, or a value out of range.
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "match"

    def __init__(
        self,
        target: Target,
        mask: SkipMask | None = None,
        gamma: int = 4,
        tau: float = 0.0,
        exit_layer: int | None = None,
        max_copy: int = 16,
        online_state: OnlineState | None = None,
        auto_disable: bool = True,
    ) -> None:
        if max_copy < 1:
            raise UsageError(f"max_copy must be 1 or more, not {max_copy}")
        self.online_state = online_state or OnlineState()
        self.max_extra_rows = gamma + max_copy
        self._own = LayerSkipDrafter(target, mask, gamma, tau, exit_layer)
        self._lookup = PromptLookupDrafter()
        self._max_copy = max_copy
        self._auto_disable = auto_disable
        self._copies = [Copy()]  # of the round under way, verified or not

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        learned, tokens = self.online_state, state.tokens
        self._lookup.index(tokens)
        copy = self._copy_on(tokens, (), limit)
        self._copies = [copy]
        count, more = self._worth(copy, rows=1, chance=1.0)
        plain = 1 - learned.rate * learned.verify.plain
        drafts = not self._auto_disable or learned.gate.wants_draft
        if count and plain + more > (self._gain_of_own() if drafts else plain):
            return DraftTree.chain(copy.tokens[:count], sources=["copied"] * count)
        if not drafts:
            return DraftTree()
        return self._draft(state, limit)

    def observe(self, outcome: RoundOutcome) -> None:
        for copy in self._copies:
            self._learn(copy, outcome.emitted)
        if own := self._copies[-1].behind:
            self.online_state.whole.add(len(outcome.path) >= own)
        self.online_state.observe(
            tokens=len(outcome.emitted),
            rows=len(outcome.draft.tokens) + 1,
            draft_seconds=outcome.draft_seconds,
            verify_seconds=outcome.verify_seconds,
            copied=not own,
        )

    def _draft(self, state: DraftState, limit: int) -> DraftTree:
        """The model's own draft, and behind it a copy as far as that pays."""
        own = self._own.propose(state, limit)
        copy = self._copy_on(state.tokens, own.tokens, limit - len(own.tokens))
        self._copies.append(copy)
        chance = self.online_state.whole.mean if self.online_state.whole.weight else 0.5
        count, _ = self._worth(copy, rows=len(own.tokens) + 1, chance=chance)
        rows = [own.draft_probs[i - 1] for i in range(len(own.draft_probs))]
        rows += [_certain(token, rows[0]) for token in copy.tokens[:count] if rows]
        sources = ["drafted"] * len(own.tokens) + ["copied"] * count
        return DraftTree.chain(own.tokens + copy.tokens[:count], rows, own.forwards, sources)

    def _copy_on(self, tokens: list[int], after: tuple[int, ...], room: int) -> Copy:
        """What to copy behind text and drafted tokens, at most `room` of it."""
        line = [*tokens, *after] if after else tokens
        start = self._lookup.find(line)
        if start is None:
            return Copy(behind=len(after))
        end = start + min(room, self._max_copy)
        return Copy(tuple(line[start:end]), _same_before(line, start), len(after))

    def _learn(self, copy: Copy, emitted: tuple[int, ...]) -> None:
        """A copy stands as far as it says what was emitted, whoever drafted that.

        Where drafts before it fell, nothing was emitted at its place.
        """
        places = enumerate(zip(copy.tokens, emitted[copy.behind :], strict=False))
        for i, (guess, token) in places:
            self.online_state.copying.observe(copy.matched + i, guess == token)
            if guess != token:
                return

    def _worth(self, copy: Copy, rows: int, chance: float) -> tuple[int, float]:
        """How many tokens to copy, and the gain of that; both 0 where it is not worth it.

        Args:
            rows: of the verifying forward without a copy.
            chance: that everything before the copy stands.
        """
        learned = self.online_state
        stand = learned.copying.expected(copy.matched, len(copy.tokens))
        base = learned.verify(rows)
        gains = [
            chance * tokens - learned.rate * (learned.verify(rows + count) - base)
            for count, tokens in enumerate(stand)
        ]
        count = max(range(len(gains)), key=gains.__getitem__)
        return count, gains[count]

    def _gain_of_own(self) -> float:
        """Infinite where it is not known, or not known any more, so that it is tried."""
        learned = self.online_state
        known = learned.own.known and learned.since_own < REFRESH
        return learned.own.gain(learned.rate) if known else float("inf")


def _same_before(tokens: Sequence[int], start: int) -> int:
    """How many tokens before `start` are also the last ones; at most `LONGEST`."""
    longest = min(start, LONGEST)
    pairs = zip(reversed(tokens[start - longest : start]), reversed(tokens), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), longest)


def _certain(token: int, like: Tensor) -> Tensor:
    """A point mass as a row.  # (V,)"""
    row = like.new_zeros(like.shape)
    row[token] = 1.0
    return row
