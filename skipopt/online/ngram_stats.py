"""How often a copied token stands, by how many tokens before it had matched.

Knows nothing of who copies, or of costs.
"""

from __future__ import annotations

KEEP = 0.98  # weight of an observation after one more
PRIOR = 4.0  # observations that what is believed beforehand counts for
LONGEST = 16  # matches beyond it count as this


class NgramAcceptance:
    """Probability that the next copied token stands, given the length of the match before it.

    Believed beforehand to be 1 − 0.75^length: a quarter after one token, 0.9 after eight.
    """

    def __init__(self) -> None:
        self._stood = [PRIOR * (1 - 0.75**length) for length in range(LONGEST + 1)]
        self._weight = [PRIOR] * (LONGEST + 1)

    def rate(self, length: int) -> float:
        length = min(length, LONGEST)
        return self._stood[length] / self._weight[length]

    def observe(self, length: int, stood: bool) -> None:
        """A token copied after a match of this length stood, or did not."""
        length = min(length, LONGEST)
        self._stood[length] = KEEP * self._stood[length] + stood
        self._weight[length] = KEEP * self._weight[length] + 1

    def expected(self, length: int, count: int) -> list[float]:
        """Tokens that 0, 1, … `count` copied ones are expected to leave standing."""
        total, chance, found = 0.0, 1.0, [0.0]
        for i in range(count):
            chance *= self.rate(length + i)
            total += chance
            found.append(total)
        return found
