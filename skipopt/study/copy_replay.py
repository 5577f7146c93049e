"""Predicts the speed of methods that copy from the context, without running the model.

Greedy decoding of known texts is simulated round by round, at the measured costs. Prompt lookup
is replayed exactly. `cascade` is simplified: it chooses between a copy, a draft of the model and
plain decoding by expected gain, as the drafter does, but with the measured costs in place of the
times of its own rounds, and without pausing model drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from skipopt.cost_model.prediction import Prediction
from skipopt.cost_model.replay import SimulatedRounds
from skipopt.drafting.prompt_lookup import PromptLookupDrafter
from skipopt.online.ngram_stats import MAX_MATCH, NgramAcceptance

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
    cascade = _Cascade(costs, costs.draft_step(mask, tau))

    def rounds_of(number: int, text: ScoredText) -> Simulate:
        copies = _Copies(text)
        drafted, accepted = (a[:, number, 0, 0] for a in (rounds.drafted, rounds.accepted))

        def simulate(start: int) -> SimulatedRound:
            at = start - text.scored_from
            return cascade.round(copies, start, int(drafted[at]), int(accepted[at]))

        return simulate

    return _predict(
        texts, costs, [rounds_of(i, text) for i, text in enumerate(texts)], gamma, tau, trace
    )


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


@dataclass(slots=True, eq=False)
class _Cascade:
    """The choices of `cascade`, and what it has learned from the rounds so far.

    Attributes:
        step: seconds of a draft step.
        tokens, seconds: of all rounds.
        drafts: tokens and seconds of the rounds with a draft of the model.
    """

    costs: Costs
    step: float
    acceptance: NgramAcceptance = field(default_factory=NgramAcceptance)
    tokens: int = 0
    seconds: float = 0.0
    drafts: list[tuple[int, float]] = field(default_factory=list)

    def round(self, copies: _Copies, start: int, drafted: int, accepted: int) -> SimulatedRound:
        """The round before the token at `start`.

        Args:
            drafted, accepted: tokens of the model's draft there.
        """
        text, room = copies.tokens[start:], len(copies.tokens) - start - 1
        copy = copies.at(start)[: min(room, MAX_COPY)]
        matched = copies.matched(start, 0, copies.at(start)) if copy else 0
        count, extra = self._best_copy(matched, len(copy), rows=1)
        self._learn(matched, copy, text)
        plain = 1 - self._rate * self.costs.plain
        if count and plain + extra > self._model_gain:
            seconds = self.costs.verification(count + 1)
            return self._done(SimulatedRound(count, _right(copy[:count], text), seconds))
        if drafted == 0 or plain > self._model_gain:
            return self._done(SimulatedRound(0, 0, self.costs.plain))
        return self._done(self._draft(copies, start, drafted, accepted), is_draft=True)

    def _draft(self, copies: _Copies, start: int, drafted: int, accepted: int) -> SimulatedRound:
        """A draft of the model, and a copy behind it where it is right and that should pay."""
        count = right = 0
        if accepted == drafted:
            found = copies.at(start, drafted)
            copy = found[: min(len(copies.tokens) - start - drafted - 1, MAX_COPY)]
            matched = copies.matched(start, drafted, found) if found else 0
            count, _ = self._best_copy(matched, len(copy), rows=drafted + 1)
            right = _right(copy[:count], copies.tokens[start + drafted :])
            self._learn(matched, copy, copies.tokens[start + drafted :])
        seconds = drafted * self.step + self.costs.verification(drafted + count + 1)
        return SimulatedRound(drafted + count, accepted + right, seconds)

    @property
    def _rate(self) -> float:
        """Tokens per second so far."""
        return self.tokens / self.seconds if self.seconds else 1 / self.costs.plain

    @property
    def _model_gain(self) -> float:
        """The mean gain of model drafts over waiting at the present rate; infinite if unknown."""
        if not self.drafts:
            return inf
        return sum(t - self._rate * s for t, s in self.drafts) / len(self.drafts)

    def _best_copy(self, matched: int, length: int, rows: int) -> tuple[int, float]:
        """The number of tokens to copy and the expected gain; both 0 if no copy would gain."""
        base, accepted = self.costs.verification(rows), self.acceptance.expected(matched, length)
        gains = [
            tokens - self._rate * (self.costs.verification(rows + count) - base)
            for count, tokens in enumerate(accepted)
        ]
        count = max(range(len(gains)), key=gains.__getitem__)
        return count, gains[count]

    def _learn(self, matched: int, copy: Sequence[int], text: Sequence[int]) -> None:
        """Update the acceptance of copies, up to the first token that differs."""
        for i in range(min(len(copy), _right(copy, text) + 1)):
            self.acceptance.observe(matched + i, copy[i] == text[i])

    def _done(self, made: SimulatedRound, is_draft: bool = False) -> SimulatedRound:
        self.tokens += made.accepted + 1
        self.seconds += made.seconds
        if is_draft:
            self.drafts.append((made.accepted + 1, made.seconds))
        return made


def _right(copy: Sequence[int], text: Sequence[int]) -> int:
    """Tokens of the copy up to the first that differs from the text."""
    pairs = enumerate(zip(copy, text, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(copy), len(text)))
