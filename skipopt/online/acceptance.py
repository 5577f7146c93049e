"""How often guesses are accepted, by what is known of them beforehand."""

from __future__ import annotations

from collections.abc import Iterable

DECAY = 0.98  # what remains of an observation's weight after one more of its kind
PRIOR_WEIGHT = 4.0  # observations that the prior counts for
MAX_MATCH = 16  # longer matches are counted as this
CONFIDENCES = 10  # levels that confidences are counted in
PRIOR_SURE = 0.55  # acceptance of tokens of lowest or unknown confidence
PRIOR_RUNNER_UP = 0.6  # how often the second choice is right where the first is wrong
COPIED, REMEMBERED = "copied", "remembered"  # from the text, from earlier texts alone
# By this factor a copy is less often wrong with each token that matched.
PRIOR_MISS = {COPIED: 0.67, REMEMBERED: 0.85}
RANKS = 8  # of successors
PRIOR_RANK = 0.2  # acceptance of the likeliest successor; it halves from rank to rank


class AcceptanceTable:
    """Acceptance rates of guesses of several kinds, each with a prior.

    Args:
        priors: the rate of each kind before anything was observed.
    """

    def __init__(self, priors: Iterable[float]) -> None:
        self._accepted = [PRIOR_WEIGHT * prior for prior in priors]
        self._weight = [PRIOR_WEIGHT] * len(self._accepted)

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
        self._accepted[kind] = DECAY * self._accepted[kind] + accepted
        self._weight[kind] = DECAY * self._weight[kind] + weight


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


class ConfidenceAcceptance(AcceptanceTable):
    """Of a token that the draft model chose, by the probability that it gave to it.

    Tokens of which that is not known are a kind of their own. The prior rises from 0.55 to nearly
    1: drafts of int4 weights, and of int8 weights with a small mask, were so often right on the
    calibration prompts of the same models; those of int8 weights alone were right more often.
    """

    def __init__(self) -> None:
        doubt = (1 - level / CONFIDENCES for level in range(CONFIDENCES))
        known = (1 - (1 - PRIOR_SURE) * each**2 for each in doubt)
        super().__init__((*known, PRIOR_SURE))

    @staticmethod
    def level(confidence: float | None) -> int:
        """The kind of a token of this confidence; None if that is not known."""
        if confidence is None:
            return CONFIDENCES
        return min(CONFIDENCES - 1, int(confidence * CONFIDENCES))


class RunnerUpAcceptance(AcceptanceTable):
    """Of the draft model's second choice where the first is wrong, by the first one's level."""

    def __init__(self) -> None:
        super().__init__([PRIOR_RUNNER_UP] * (CONFIDENCES + 1))


class RankAcceptance(AcceptanceTable):
    """Of the successors that a token had before, by their rank."""

    def __init__(self) -> None:
        super().__init__(PRIOR_RANK * 0.5**rank for rank in range(RANKS))
