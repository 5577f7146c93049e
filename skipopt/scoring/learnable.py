"""Draft vocabularies that a text would have if it had not been known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from skipopt.models.target import Target
from skipopt.runtime.draft_mode import frequent_vocabulary
from skipopt.scoring.trace import ScoredText


def vocabularies_of_others(
    target: Target, texts: Sequence[ScoredText], size: int
) -> list[NDArray[Any]]:
    """For each text, the tokens of a vocabulary of `size` that is made from the others.

    A vocabulary made from all texts has all of their tokens, which the next text's may not be.
    """
    tokens = [text.tokens for text in texts]
    return [
        frequent_vocabulary(target, tokens[:i] + tokens[i + 1 :], size).ids
        for i in range(len(texts))
    ]
