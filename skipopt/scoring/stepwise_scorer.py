"""Scores the drafts of one text after another, step by step, as decoding makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.scoring.learnable import vocabularies_of_others
from skipopt.scoring.trace import ScoredText, Trace


class StepwiseScorer:
    """What `Scorer` gives, for models of which it refuses to score masks.

    Every position takes a step of the model and a draft, so this is for a few drafts only.

    Args:
        target, texts, steps, draft_config: as for `Scorer`.
    """

    def __init__(
        self,
        target: Target,
        texts: Sequence[ScoredText],
        steps: int = 1,
        draft_config: DraftConfig = UNCHANGED,
    ) -> None:
        self._target = target
        self._texts = [text for text in texts if text.continuation]
        self._steps = steps
        self._draft_config = draft_config
        size = draft_config.vocab_size
        self._learnable = (
            None if size is None else vocabularies_of_others(target, self._texts, size)
        )

    def score(self, masks: Sequence[SkipMask]) -> list[Trace]:
        """One trace per mask, in order."""
        return [self._trace(mask) for mask in masks]

    def _trace(self, mask: SkipMask) -> Trace:
        lengths = np.array([len(text.continuation) for text in self._texts])
        shape = len(self._texts), int(lengths.max()), self._steps
        trace = Trace(np.zeros(shape, np.bool_), np.zeros(shape, np.float32), lengths)
        for number in range(len(self._texts)):
            self._score_text(number, mask, trace)
        return trace

    def _score_text(self, number: int, mask: SkipMask, trace: Trace) -> None:
        """Fill in the drafts from every position of a text."""
        text = self._texts[number]
        first = text.scored_from - 1
        engine = Engine(self._target, len(text.tokens) + 1)
        engine.prefill(text.tokens[:first])
        for position in range(first, len(text.tokens) - 1):
            found = self._draft(engine, text.tokens[position : position + self._steps + 1], mask)
            for step, (token, confidence) in enumerate(found):
                right = token == text.tokens[position + step + 1] and confidence > 0
                place = number, position - first, step
                trace.matched[place] = right and self._may_draft(number, token)
                trace.confidence[place] = confidence
            engine.rewind(position)
            engine.step([text.tokens[position]])

    def _draft(
        self, engine: Engine, tokens: Sequence[int], mask: SkipMask
    ) -> list[tuple[int, float]]:
        """What the draft model chooses after each of the tokens but the last, and how sure it is.

        The probability is 0 where the logits are not numbers, as in `Scorer`.
        """
        found = []
        with engine.draft_mode(mask, self._draft_config):
            for token in tokens[:-1]:
                chosen = engine.greedy_step([token])
                confidence = chosen.confidences.nan_to_num(0.0)
                found.append((int(chosen.tokens[0]), float(confidence[0])))
        return found

    def _may_draft(self, number: int, token: int) -> bool:
        """Whether a draft vocabulary made from the other texts has the token."""
        return self._learnable is None or bool(np.isin(token, self._learnable[number]))
