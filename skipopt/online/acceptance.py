"""How often guesses are accepted, by what is known of them beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import erf, exp, isnan, log, sqrt

DECAY = 0.98  # what remains of an observation's weight after one more of its kind
PRIOR_WEIGHT = 4.0  # observations that the prior counts for
MAX_MATCH = 16  # longer matches are counted as this
PRIOR_RUNNER_UP = 0.7  # how often the second choice is right where the first is wrong
PRIOR_SECOND_COPY = 0.15  # the same of copies (results/copy-acceptance.md: 0.12 to 0.24)
COPIED, REMEMBERED = "copied", "remembered"  # from the text, from earlier texts alone
# By this factor a copy is less often wrong with each token that matched.
PRIOR_MISS = {COPIED: 0.67, REMEMBERED: 0.85}
RANKS = 8  # of successors
PRIOR_RANK = 0.2  # acceptance of the likeliest successor; it halves from rank to rank


class AcceptanceTable:
    """Acceptance rates of guesses of several kinds, each with a prior.

    Args:
        priors: the rate of each kind before anything was observed.
        prior_weight: observations that a prior counts for.
        decay: what remains of an observation's weight after one more of its kind.
    """

    def __init__(
        self,
        priors: Iterable[float],
        prior_weight: float = PRIOR_WEIGHT,
        decay: float = DECAY,
    ) -> None:
        self._decay = decay
        self._accepted = [prior_weight * prior for prior in priors]
        self._weight = [prior_weight] * len(self._accepted)

    def rate(self, kind: int) -> float:
        """Estimated probability that a guess of this kind, or of the last one, is accepted."""
        kind = min(kind, len(self._weight) - 1)
        return min(1.0, self._accepted[kind] / self._weight[kind])

    def observe(self, kind: int, accepted: bool, weight: float = 1.0) -> None:
        """Take in whether a guess of this kind was accepted.

        Args:
            weight: what the guess counts for; one that is right with `weight` times the
                probability of others of its kind counts for so much.
        """
        kind = min(kind, len(self._weight) - 1)
        self._accepted[kind] = self._decay * self._accepted[kind] + accepted
        self._weight[kind] = self._decay * self._weight[kind] + weight


class NgramAcceptance(AcceptanceTable):
    """Of the next copied token, by the length of the n-gram that matched before.

    The prior is 1 − miss^length. From the text, a third after one matching token and 0.8 after
    four; from earlier texts, a quarter after two and a half after four: as measured on the
    calibration prompts of SmolLM2-135M-Instruct and Gemma-3-270M
    (`python -m benchmarks.copy_acceptance`, results/copy-acceptance.md). Texts differ much in how
    far they repeat others: what copies of any length gave, beside what was expected of them,
    counts for every length.

    Args:
        source: where copies come from.
        share: of the prior, expected in this text.
    """

    def __init__(self, source: str = COPIED, share: float = 1.0) -> None:
        super().__init__(1 - PRIOR_MISS[source] ** length for length in range(MAX_MATCH + 1))
        self._right, self._expected = share * PRIOR_WEIGHT, PRIOR_WEIGHT

    def rate(self, kind: int) -> float:
        return min(1.0, super().rate(kind) * self._right / self._expected)

    def observe(self, kind: int, accepted: bool, weight: float = 1.0) -> None:
        self._right = DECAY * self._right + accepted
        self._expected = DECAY * self._expected + weight * super().rate(kind)
        super().observe(kind, accepted, weight)


# By source: tokens that follow elsewhere in the text follow again more often than those of others.
CopyAcceptance = dict[str, NgramAcceptance]


def copy_acceptance(share: float = 1.0) -> CopyAcceptance:
    """Tables of both sources, with so large a share of their priors."""
    return {source: NgramAcceptance(source, share) for source in PRIOR_MISS}


@dataclass(frozen=True, slots=True)
class DraftPrior:
    """What is expected of a draft model's tokens before any was verified.

    Attributes:
        error: standard deviation of the error in the difference of two logits.
        accepted: how often a token is accepted.
    """

    error: float
    accepted: float


UNKNOWN_DRAFTS = DraftPrior(1.0, 0.85)  # a guess for masks


def draft_prior(bits: int | None) -> DraftPrior:
    """Of drafts by weights of so many bits, as on the calibration prompts of two models."""
    known = {8: DraftPrior(0.11, 0.97), 4: DraftPrior(1.0, 0.87)}
    return UNKNOWN_DRAFTS if bits is None else known[bits]


class MarginAcceptance:
    """Of a token that the draft model chose, by its margin: its logit less that of the next one.

    The draft model's margin is taken for the target's with a normal error, so that a choice is
    right with probability Φ(margin / error), or less by a factor where other tokens are right.
    Each verified token tells of both: the weight of each of `HYPOTHESES` is multiplied by the
    probability of what happened. Drafts of int8 weights of SmolLM2-135M-Instruct and Gemma-3-270M
    are wrong in 2 % of the places, and nearly all of these are among the 10 % with a margin below
    0.3.

    Tokens without a margin, those that were drawn, are accepted as often as all before them.
    """

    # Errors, factors, and the logarithm of what a factor is worth at first.
    HYPOTHESES = tuple(
        (2.0**octave, factor, doubt)
        for octave in range(-5, 5)
        for factor, doubt in ((1.0, 0.0), (0.7, -4.0), (0.2, -6.0))
    )
    WIDTH = 0.8  # standard deviation of the prior of the logarithm of the error
    # Of the share of all tokens. It changes slowly: drafts whose length followed every rejected
    # token would mostly be too short.
    USUAL_WEIGHT, USUAL_DECAY = 40.0, 0.995
    LEAST = 0.01  # probability of anything, so that one token does not rule out a hypothesis

    def __init__(self, prior: DraftPrior = UNKNOWN_DRAFTS) -> None:
        self._prior = [
            doubt - 0.5 * (log(error / prior.error) / self.WIDTH) ** 2
            for error, _, doubt in self.HYPOTHESES
        ]
        self._evidence = [0.0] * len(self.HYPOTHESES)  # logarithms
        self._weights = self._normalized()
        self._all = AcceptanceTable([prior.accepted], self.USUAL_WEIGHT, self.USUAL_DECAY)

    @property
    def usual(self) -> float:
        """Of a token of which nothing is known."""
        return self._all.rate(0)

    def rate(self, margin: float | None) -> float:
        """Estimated probability that a token of this margin is accepted."""
        if margin is None:
            return self.usual
        pairs = zip(self._weights, self._right(margin), strict=True)
        return sum(weight * right for weight, right in pairs)

    def observe(self, margin: float | None, accepted: bool) -> None:
        """Take in whether a token was accepted."""
        self._all.observe(0, accepted)
        if margin is None:
            return
        for i, right in enumerate(self._right(margin)):
            happened = right if accepted else 1.0 - right
            self._evidence[i] = DECAY * self._evidence[i] + log(max(self.LEAST, happened))
        self._weights = self._normalized()

    def _right(self, margin: float) -> list[float]:
        """Probability that the token is right, by hypothesis."""
        return [factor * _below(margin / error) for error, factor, _ in self.HYPOTHESES]

    def _normalized(self) -> list[float]:
        logs = [a + b for a, b in zip(self._prior, self._evidence, strict=True)]
        highest = max(logs)
        weights = [exp(each - highest) for each in logs]
        total = sum(weights)
        return [each / total for each in weights]


def _below(deviations: float) -> float:
    """Probability that a standard normal variable is below `deviations`; 0.5 for NaN."""
    return 0.5 if isnan(deviations) else 0.5 * (1.0 + erf(deviations / sqrt(2.0)))


class RunnerUpAcceptance(AcceptanceTable):
    """Of the draft model's second choice where the first is wrong."""

    def __init__(self) -> None:
        super().__init__([PRIOR_RUNNER_UP])


class SecondCopyAcceptance(AcceptanceTable):
    """Of the next most frequent continuation, where the most frequent one is wrong."""

    def __init__(self) -> None:
        super().__init__([PRIOR_SECOND_COPY])


class RankAcceptance(AcceptanceTable):
    """Of the successors that a token had before, by their rank."""

    def __init__(self) -> None:
        super().__init__(PRIOR_RANK * 0.5**rank for rank in range(RANKS))
