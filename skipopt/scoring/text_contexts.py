"""The full model's keys and values of texts, which every scorer reads."""

from __future__ import annotations

from collections.abc import Sequence

from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.runtime.kv_cache import KeysAndValues
from skipopt.runtime.state_checkpoint import States
from skipopt.scoring.trace import ScoredText


class TextContexts:
    """Keys and values of texts, each text computed once, whichever scorers ask for it.

    They are of the model as it was then: make a new one when its weights change.

    Attributes:
        target: the model.
        scoring_agrees: whether a scorer that reads them was found to choose as the model does.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.scoring_agrees = False
        self._known: dict[tuple[int, ...], list[KeysAndValues]] = {}
        self._states: dict[ScoredText, list[States]] = {}

    def __contains__(self, text: ScoredText) -> bool:
        """Whether they are known already."""
        return text.tokens in self._known

    def of(self, tokens: Sequence[int]) -> list[KeysAndValues]:
        """Each layer's keys and values of a text.  # pairs of (1, heads, len(tokens), D)"""
        text = tuple(tokens)
        if text not in self._known:
            engine = Engine(self.target, len(text), captured=False)
            engine.prefill(text)
            self._known[text] = engine.cache.contents()
        return self._known[text]

    def states(self, text: ScoredText) -> list[States]:
        """The states of recurrent layers before each draft of a text.

        A draft begins at the token before each scored one.
        """
        if text not in self._states:
            self._states[text] = self._read(text)
        return self._states[text]

    def _read(self, text: ScoredText) -> list[States]:
        engine = Engine(self.target, len(text.tokens), captured=False)
        assert engine.states is not None
        first = text.scored_from - 1
        engine.prefill(text.tokens[:first])
        found = [engine.states.current()]
        for token in text.tokens[first:-2]:
            engine.step([token])
            found.append(engine.states.current())
        return found
