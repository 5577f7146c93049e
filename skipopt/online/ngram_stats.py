"""How often copied tokens are accepted, by the length of the n-gram that matched before them."""

from __future__ import annotations

DECAY = 0.98  # what remains of an observation's weight after one more of its length
PRIOR_WEIGHT = 4.0  # observations that the prior counts for
MAX_MATCH = 16  # longer matches are counted as this


class NgramAcceptance:
    """Probability that the next copied token is accepted, given the length of the match before.

    The prior is 1 − 0.75^length: a quarter after one matching token, 0.9 after eight.
    """

    def __init__(self) -> None:
        lengths = range(MAX_MATCH + 1)
        self._accepted = [PRIOR_WEIGHT * (1 - 0.75**length) for length in lengths]
        self._weight = [PRIOR_WEIGHT] * len(lengths)

    def rate(self, length: int) -> float:
        """Estimated probability after a match of `length` tokens."""
        length = min(length, MAX_MATCH)
        return self._accepted[length] / self._weight[length]

    def observe(self, length: int, accepted: bool) -> None:
        """Take in whether a token copied after a match of `length` tokens was accepted."""
        length = min(length, MAX_MATCH)
        self._accepted[length] = DECAY * self._accepted[length] + accepted
        self._weight[length] = DECAY * self._weight[length] + 1

    def expected(self, length: int, count: int) -> list[float]:
        """Expected accepted tokens of copies of 0, 1, … `count` tokens after such a match."""
        total, chance, found = 0.0, 1.0, [0.0]
        for i in range(count):
            chance *= self.rate(length + i)
            total += chance
            found.append(total)
        return found
