"""Predicts the speed of methods that copy from the context, without running the model.

Greedy decoding of known texts is simulated round by round, at the measured costs. Prompt lookup
is replayed exactly. `cascade` is simplified: it chooses between a copy, a draft of the model and
plain decoding by expected gain, as the drafter does, but it knows from the start what the drafter
learns: the measured costs, and how many tokens drafts of the model yield on average. And the copy
behind a draft is taken to be found as if the draft were right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from skipopt.cost_model.prediction import Prediction
from skipopt.cost_model.replay import SimulatedRounds
from skipopt.drafting.prompt_lookup import PromptLookupDrafter
from skipopt.online.acceptance import MAX_MATCH, NgramAcceptance

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.masks import SkipMask
    from skipopt.scoring import ScoredText, Trace

MAX_COPY = 16  # tokens that `cascade` copies at most


@dataclass(frozen=True, slots=True)
class SimulatedRound:
    """What one round would do.

    Attributes:
        drafted, accepted: tokens.
        seconds: of the draft and the verification.
    """

    drafted: int
    accepted: int
    seconds: float


# The round that begins before a token of the text, given by its index.
Simulate = Callable[[int], SimulatedRound]


def predict_prompt_lookup(texts: Sequence[ScoredText], costs: Costs) -> Prediction:
    """The prediction of `prompt-lookup`; its matchness counts positions without a copy as missed.

    Args:
        texts: what the target generated greedily, without repetition; each has a token to decode.
    """

    def rounds_of(text: ScoredText) -> Simulate:
        copies = _Copies(text)

        def simulate(start: int) -> SimulatedRound:
            copy = copies.at(start)[: min(copies.gamma, len(text.tokens) - start - 1)]
            seconds = costs.verification(len(copy) + 1)
            return SimulatedRound(len(copy), _right(copy, text.tokens[start:]), seconds)

        return simulate

    return _predict(texts, costs, [rounds_of(text) for text in texts])


def predict_cascade(
    texts: Sequence[ScoredText],
    costs: Costs,
    trace: Trace,
    mask: SkipMask,
    gamma: int,
    tau: float,
) -> Prediction:
    """The prediction of `cascade`.

    Args:
        trace: of drafts under the mask on these texts.
        costs: of these drafts.
    """
    rounds = SimulatedRounds.of(trace, [gamma], [tau])
    step = costs.draft_step(mask, tau)

    def drafts_of(number: int, text: ScoredText) -> Simulate:
        drafted, accepted = (a[:, number, 0, 0] for a in (rounds.drafted, rounds.accepted))

        def simulate(start: int) -> SimulatedRound:
            tokens = int(drafted[start - text.scored_from])
            seconds = tokens * step + costs.verification(tokens + 1)
            return SimulatedRound(tokens, int(accepted[start - text.scored_from]), seconds)

        return simulate

    drafts = [drafts_of(number, text) for number, text in enumerate(texts)]
    alone = [
        each for text, draft in zip(texts, drafts, strict=True) for each in _walk(text, draft)
    ]
    known = _Known.of(costs, alone)
    cascades = [_Cascade(known, text, d).round for text, d in zip(texts, drafts, strict=True)]
    return _predict(texts, costs, cascades, gamma, tau, trace)


def _predict(
    texts: Sequence[ScoredText],
    costs: Costs,
    simulations: Sequence[Simulate],
    gamma: int = PromptLookupDrafter().gamma,
    tau: float = 0.0,
    trace: Trace | None = None,
) -> Prediction:
    """The prediction from walking through each text, one after the other."""
    walks = [_walk(text, each) for text, each in zip(texts, simulations, strict=True)]
    every = [each for walk in walks for each in walk]
    plain = [len(text.continuation) * costs.plain for text in texts]
    seconds = [sum(each.seconds for each in walk) for walk in walks]
    drafted = sum(each.drafted for each in every)
    accepted = sum(each.accepted for each in every)
    return Prediction(
        speedup=sum(plain) / sum(seconds),
        per_text_speedups=tuple(p / s for p, s in zip(plain, seconds, strict=True)),
        gamma=gamma,
        tau=tau,
        acceptance_rate=accepted / drafted if drafted else 0.0,
        matchness=_copied_share(texts) if trace is None else trace.matchness,
    )


def _walk(text: ScoredText, simulate: Simulate) -> list[SimulatedRound]:
    start, rounds = text.scored_from, list[SimulatedRound]()
    while start < len(text.tokens):
        rounds.append(simulate(start))
        start += rounds[-1].accepted + 1
    return rounds


def _copied_share(texts: Sequence[ScoredText]) -> float:
    """Share of positions at which the token after the latest match is the text's."""
    hits = [
        copies.at(start)[:1] == text.tokens[start : start + 1]
        for text in texts
        for copies in [_Copies(text)]
        for start in range(text.scored_from, len(text.tokens))
    ]
    return sum(hits) / len(hits)


class _Copies:
    """What prompt lookup finds at ascending positions of one text.

    Attributes:
        tokens: of the text, its prompt included.
        gamma: most tokens that `prompt-lookup` copies.
    """

    def __init__(self, text: ScoredText) -> None:
        self.tokens = text.tokens
        self._lookup = PromptLookupDrafter()
        self.gamma = self._lookup.gamma

    def at(self, start: int, after: int = 0) -> tuple[int, ...]:
        """The tokens that could be copied; all of the context after the latest earlier match.

        Args:
            start: index of the first token that the copy, or a draft before it, stands for.
            after: right tokens of a draft that the copy follows.
        """
        context = self.tokens[: start + after]
        self._lookup.index(self.tokens[:start])
        found = self._lookup.find(context)
        return () if found is None else context[found:]

    def matched(self, start: int, after: int, copy: tuple[int, ...]) -> int:
        """Tokens before the copy that equal the last ones of the context; at most `MAX_MATCH`."""
        context = self.tokens[: start + after]
        end = len(context) - len(copy)
        longest = min(end, MAX_MATCH)
        return next(
            (i for i in range(longest) if context[end - 1 - i] != context[-1 - i]), longest
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """What `cascade` learns while it decodes.

    Attributes:
        rate: tokens per second, of drafts of the model or of plain decoding if that is faster.
        draft_gain: expected tokens of a round with a draft of the model, less those that pass in
            its time at this rate.
        full_acceptance: share of these rounds that have all tokens accepted.
    """

    costs: Costs
    rate: float
    draft_gain: float
    full_acceptance: float

    @classmethod
    def of(cls, costs: Costs, drafts: Sequence[SimulatedRound]) -> _Known:
        """From rounds that all draft with the model."""
        tokens = fmean(each.accepted + 1 for each in drafts)
        seconds = fmean(each.seconds for each in drafts)
        rate = max(1 / costs.plain, tokens / seconds)
        full = fmean(each.accepted == each.drafted for each in drafts)
        return cls(costs, rate, tokens - rate * seconds, full)

    @property
    def plain_gain(self) -> float:
        """As `draft_gain`, of a plain round."""
        return 1 - self.rate * self.costs.plain


class _Cascade:
    """The rounds of `cascade` on one text.

    Args:
        draft: the draft of the model at each position.
    """

    def __init__(self, known: _Known, text: ScoredText, draft: Simulate) -> None:
        self._known = known
        self._draft = draft
        self._copies = _Copies(text)
        self._acceptance = NgramAcceptance()

    def round(self, start: int) -> SimulatedRound:
        """The round before the token at `start`."""
        known = self._known
        count, right, extra = self._copy(start, 0, rows=1, chance=1.0)
        if count and known.plain_gain + extra > known.draft_gain:
            return SimulatedRound(count, right, known.costs.verification(count + 1))
        draft = self._draft(start)
        if not draft.drafted or known.plain_gain > known.draft_gain:
            return SimulatedRound(0, 0, known.costs.plain)
        return self._with_copy(draft, start)

    def _with_copy(self, draft: SimulatedRound, start: int) -> SimulatedRound:
        """The draft of the model with the copy behind it, if that is expected to pay."""
        rows = draft.drafted + 1
        chance = self._known.full_acceptance
        count, right, _ = self._copy(start, draft.drafted, rows, chance)
        verification = self._known.costs.verification
        return SimulatedRound(
            draft.drafted + count,
            draft.accepted + (right if draft.accepted == draft.drafted else 0),
            draft.seconds + verification(rows + count) - verification(rows),
        )

    def _copy(self, start: int, after: int, rows: int, chance: float) -> tuple[int, int, float]:
        """The number of tokens to copy, how many of them are right, and the expected gain.

        Args:
            after: tokens between `start` and the copy.
            rows: of the verifying forward without the copy.
            chance: the probability that everything before the copy is accepted.
        """
        tokens = self._copies.tokens
        found = self._copies.at(start, after)
        copy = found[: max(0, min(MAX_COPY, len(tokens) - start - after - 1))]
        if not copy:
            return 0, 0, 0.0
        matched = self._copies.matched(start, after, found)
        verification, rate = self._known.costs.verification, self._known.rate
        accepted = self._acceptance.expected(matched, len(copy))
        gains = [
            chance * tokens_more - rate * (verification(rows + count) - verification(rows))
            for count, tokens_more in enumerate(accepted)
        ]
        count = max(range(len(gains)), key=gains.__getitem__)
        self._learn(matched, copy, tokens[start + after :])
        return count, _right(copy[:count], tokens[start + after :]), gains[count]

    def _learn(self, matched: int, copy: Sequence[int], text: Sequence[int]) -> None:
        """Update the acceptance of copies, up to the first token that differs."""
        for i in range(min(len(copy), _right(copy, text) + 1)):
            self._acceptance.observe(matched + i, copy[i] == text[i])


def _right(copy: Sequence[int], text: Sequence[int]) -> int:
    """Tokens of the copy up to the first that differs from the text."""
    pairs = enumerate(zip(copy, text, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(copy), len(text)))
