"""From many masks scored on a few texts to the few finalists.

The best of many values on few texts is partly luck, so the best masks are scored again on all
texts. And a draft attends to its own keys from its second token on, which one-token traces leave
out: the last few masks are scored with full drafts, which makes their replay exact.
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


def rescore(
    target: Target,
    masks: Sequence[SkipMask],
    texts: Sequence[ScoredText],
    objective: Objective,
    on_step: Callable[[], None],
) -> list[Trial]:
    """The finalists among `masks`, best first.

    Args:
        masks: best first, by what is known of them.
        texts: all calibration texts.
        on_step: called between batches.
    """
    config = objective.config
    one_token = Scorer(target, texts)
    trials = _ranked(one_token, masks[: config.num_candidates], objective, on_step)
    full_draft = Scorer(target, texts, _longest_draft(objective))
    masks = [trial.mask for trial in trials[: config.num_full_draft]]
    return _ranked(full_draft, masks, objective, on_step)[: config.num_finalists]


def _ranked(
    scorer: Scorer, masks: Sequence[SkipMask], objective: Objective, on_step: Callable[[], None]
) -> list[Trial]:
    """The trials of these masks, scored in batches; best first."""
    size = objective.config.batch_size
    trials: list[Trial] = []
    for start in range(0, len(masks), size):
        on_step()
        batch = masks[start : start + size]
        trials += objective.evaluate_all(batch, scorer.score(batch))
    return sorted(trials, key=lambda trial: -trial.value)


def _longest_draft(objective: Objective) -> int:
    return len(objective.costs.verify) - 1


def predict_on(
    target: Target, trial: Trial, texts: Sequence[ScoredText], objective: Objective
) -> Trial:
    """The trial of the same mask, γ and τ on other texts."""
    assert trial.prediction is not None
    fixed = replace(objective.config, gamma=trial.prediction.gamma, tau=trial.prediction.tau)
    objective = replace(objective, config=fixed)
    return score_full_drafts(target, [trial.mask], texts, objective)[0]


def score_full_drafts(
    target: Target,
    masks: Sequence[SkipMask],
    texts: Sequence[ScoredText],
    objective: Objective,
) -> list[Trial]:
    """Trials from full drafts, made with the objective's draft configuration."""
    steps = _longest_draft(objective)
    scorer = Scorer(target, texts, steps, draft_config=objective.draft_config)
    return objective.evaluate_all(masks, scorer.score(masks))
