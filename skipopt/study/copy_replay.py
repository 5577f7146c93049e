"""Predicts the speed of methods that copy from the context, without running the model.

Greedy decoding of known texts is simulated round by round, at the measured costs. `suffix` is
replayed exactly. `cascade` is simplified: it chooses between a copy, a draft of the model and
plain decoding by expected gain, as the drafter does, but it knows from the start what the drafter
learns: the measured costs, and how many tokens drafts of the model yield on average. The copy
behind a draft is taken to be found as if the draft were right, no drafted token is left out, and
there are no recycled tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from skipopt.cost_model.prediction import Prediction
from skipopt.cost_model.replay import SimulatedRounds
from skipopt.drafting.copies import Copy, CopyFinder
from skipopt.drafting.guess_tree import GuessTree, nothing_beside
from skipopt.drafting.row_budget import DOUBT
from skipopt.drafting.suffix import SuffixDrafter
from skipopt.online.acceptance import copy_acceptance

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


def predict_suffix(texts: Sequence[ScoredText], costs: Costs) -> Prediction:
    """The prediction of `suffix`; its matchness counts positions without a copy as missed.

    Args:
        texts: what the target generated greedily, without repetition; each has a token to decode.
    """

    def rounds_of(text: ScoredText) -> Simulate:
        drafter = SuffixDrafter()

        def simulate(start: int) -> SimulatedRound:
            context = text.tokens[:start]
            drafter.index(context)
            copy = drafter.continuation(context, len(text.tokens) - start - 1).tokens
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
    gamma: int = SuffixDrafter().gamma,
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
        mean_acceptance_length=1 + accepted / max(1, len(every)),
    )


def _walk(text: ScoredText, simulate: Simulate) -> list[SimulatedRound]:
    start, rounds = text.scored_from, list[SimulatedRound]()
    while start < len(text.tokens):
        rounds.append(simulate(start))
        start += rounds[-1].accepted + 1
    return rounds


def _copied_share(texts: Sequence[ScoredText]) -> float:
    """Share of positions at which the first token of a copy is the text's."""
    hits: list[bool] = []
    for text in texts:
        drafter = SuffixDrafter()
        for start in range(text.scored_from, len(text.tokens)):
            drafter.index(text.tokens[:start])
            copied = drafter.continuation(text.tokens[:start], 1).tokens
            hits.append(copied == text.tokens[start : start + 1])
    return sum(hits) / len(hits)


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
        self._tokens = text.tokens
        self._finder = CopyFinder(MAX_COPY)
        self._acceptance = copy_acceptance()

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
        place = start + after
        text, room = self._tokens[place:], len(self._tokens) - place - 1
        if room < 1:
            return 0, 0, 0.0
        copy = self._finder.find(self._tokens[:start], self._tokens[start:place], room)
        count, gain = self._pays(copy, rows, chance)
        copy.judge(self._acceptance, self._tokens[start:])
        return count, _right(copy.found.tokens[:count], text), gain

    def _pays(self, copy: Copy, rows: int, chance: float) -> tuple[int, float]:
        """The number of tokens to copy, and the expected gain."""
        guesses = copy.guesses(self._acceptance)
        if guesses:
            guesses[0] = replace(guesses[0], chance=guesses[0].chance * chance)
        tree = GuessTree(0, guesses, nothing_beside, len(guesses))
        verification = self._known.costs.verification
        seconds = [verification(rows + count) for count in range(len(guesses) + 1)]
        return tree.rows_that_pay(seconds, self._known.rate, DOUBT)


def _right(copy: Sequence[int], text: Sequence[int]) -> int:
    """Tokens of the copy up to the first that differs from the text."""
    pairs = enumerate(zip(copy, text, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(copy), len(text)))
