"""Which scorer a model has."""

from __future__ import annotations

from collections.abc import Sequence

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import NotScoredError
from skipopt.scoring.scorer import Scorer
from skipopt.scoring.stepwise_scorer import StepwiseScorer
from skipopt.scoring.text_contexts import TextContexts
from skipopt.scoring.trace import ScoredText

AnyScorer = Scorer | StepwiseScorer


def scorer_of(
    contexts: TextContexts,
    texts: Sequence[ScoredText],
    steps: int = 1,
    draft_config: DraftConfig = UNCHANGED,
) -> AnyScorer:
    """A scorer of a few drafts: of all positions at once where the model can, else step by step.

    Args:
        contexts: of the model.
        texts, steps, draft_config: as for `Scorer`.
    """
    target = contexts.target
    try:
        return Scorer(target, texts, steps, draft_config=draft_config, contexts=contexts)
    except NotScoredError:
        return StepwiseScorer(target, texts, steps, draft_config)


def not_scored_reason(contexts: TextContexts, text: ScoredText) -> str | None:
    """Why masks of the model cannot be scored, in a sentence; None where they can."""
    if not contexts.target.skippable:
        return "there is no sublayer of which it is proved that it can be left out"
    try:
        Scorer(contexts.target, [text], contexts=contexts)
    except NotScoredError as error:
        return str(error)
    return None
