"""From many masks scored on little to a few scored on much.

The highest of many scores on few texts is partly luck; more texts take that away. And drafts see
their own keys after their first token: the last few masks are scored with whole drafts, which
makes their replay exact. Knows nothing of how masks were proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from skipopt.scoring import Scorer

if TYPE_CHECKING:
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target
    from skipopt.scoring import ScoredText
    from skipopt.storage.base import Trial
    from skipopt.study.objective import Objective

NUM_CANDIDATES = 24  # scored again on all texts
NEAREST = 10  # of these, scored with whole drafts
FINALISTS = 5  # of these, decoded with
BATCH = 8


def rescore(
    target: Target,
    masks: Sequence[SkipMask],
    texts: Sequence[ScoredText],
    judge: Objective,
    on_step: Callable[[], None],
) -> list[Trial]:
    """The best few of `masks`, best first; they come in the order of what is known of them."""
    judged: list[Trial] = []
    for count, steps in ((NUM_CANDIDATES, 1), (NEAREST, len(judge.costs.verify) - 1)):
        scorer = Scorer(target, texts, steps)
        nearest, judged = masks[:count], []
        for start in range(0, len(nearest), BATCH):
            on_step()
            batch = nearest[start : start + BATCH]
            judged += [
                judge.evaluate(m, t) for m, t in zip(batch, scorer.score(batch), strict=True)
            ]
        judged.sort(key=lambda trial: -trial.value)
        masks = [trial.mask for trial in judged]
    return judged[:FINALISTS]


def predict_on(
    target: Target, trial: Trial, texts: Sequence[ScoredText], judge: Objective
) -> Trial:
    """The trial with what its mask promises at its γ and τ on these texts."""
    assert trial.prediction is not None
    fixed = replace(judge.config, gamma=trial.prediction.gamma, tau=trial.prediction.tau)
    return score_full_drafts(target, [trial.mask], texts, replace(judge, config=fixed))[0]


def score_full_drafts(
    target: Target, masks: Sequence[SkipMask], texts: Sequence[ScoredText], judge: Objective
) -> list[Trial]:
    """What masks promise with whole drafts, made with the judge's levers."""
    scorer = Scorer(target, texts, len(judge.costs.verify) - 1, draft_config=judge.draft_config)
    return [judge.evaluate(m, t) for m, t in zip(masks, scorer.score(masks), strict=True)]
