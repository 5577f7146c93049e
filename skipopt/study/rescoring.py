"""From many masks scored on a few texts to the few finalists.

The best of many values on few texts is partly luck, so the best masks are scored again on all
texts. And a draft attends to its own keys from its second token on, which one-token traces leave
out: the last few masks are scored with full drafts, which makes their replay exact. Where the time
is short, fewer masks are scored again, on fewer texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skipopt.scoring import AnyScorer, TextContexts, Trace, scorer_of
from skipopt.study.time_plan import NEVER, Deadline, Pace

if TYPE_CHECKING:
    from skipopt.masks import SkipMask
    from skipopt.scoring import ScoredText
    from skipopt.storage.base import Trial
    from skipopt.study.objective import Objective

FIRST_TEXTS = 2  # scored first, to learn how long one takes
ONE_TOKEN_SHARE = 0.5  # of the time for scoring masks again


@dataclass(frozen=True, slots=True)
class TimeToScore:
    """Until when texts may be scored, and how long that takes.

    Attributes:
        pace: None where nothing limits the time.
        on_step: called often.
        contexts: what is known of the texts already.
    """

    deadline: Deadline = NEVER
    pace: Pace | None = None
    on_step: Callable[[], None] = lambda: None
    contexts: TextContexts | None = None

    def fits(self, texts: Sequence[ScoredText], masks: int = 1, steps: int = 1) -> bool:
        if self.pace is None:
            return True
        return self.deadline.fits(self.seconds(self.pace, texts, masks, steps))

    def seconds(
        self, pace: Pace, texts: Sequence[ScoredText], masks: int = 1, steps: int = 1
    ) -> float:
        """To score masks, and to compute the keys and values that are not known."""
        known = self.contexts
        new = [text for text in texts if known is None or text not in known]
        return pace.contexts(new) + pace.scoring(texts, masks, steps)

    def part(self, share: float) -> TimeToScore:
        """The same until a share of the time is over."""
        return replace(self, deadline=self.deadline.part(share))

    def fitting_masks(self, texts: Sequence[ScoredText], most: int, steps: int = 1) -> int:
        """How many masks can be scored on these texts in time."""
        if self.pace is None or not self.deadline.is_finite:
            return most
        one, two = (self.seconds(self.pace, texts, masks, steps) for masks in (1, 2))
        return max(0, min(most, 1 + int((self.deadline.left - one) / (two - one))))

    def fitting_texts(self, texts: Sequence[ScoredText], masks: int, steps: int = 1) -> int:
        """How many of the first texts these masks can be scored on in time."""
        count = len(texts)
        while count and not self.fits(texts[:count], masks, steps):
            count -= 1
        return count


def rescore(
    contexts: TextContexts,
    masks: Sequence[SkipMask],
    texts: Sequence[ScoredText],
    objective: Objective,
    time: TimeToScore,
) -> list[Trial]:
    """The finalists among `masks`, best first; empty where there is no time for any.

    Args:
        masks: best first, by what is known of them.
        texts: all calibration texts.
    """
    config, steps = objective.config, _longest_draft(objective)
    count = time.part(ONE_TOKEN_SHARE).fitting_masks(texts, config.num_candidates)
    trials = score_texts(contexts, masks[:count], texts, objective, time=time)
    masks = [trial.mask for trial in trials] or list(masks)
    # With full drafts: two masks at least, on as many texts as they can be compared on.
    least = min(2, len(masks))
    fitting = texts[: time.fitting_texts(texts, least, steps)]
    if not masks or not fitting:
        return trials[: config.num_finalists]
    count = time.fitting_masks(fitting, config.num_full_draft, steps)
    return score_texts(contexts, masks[:count], fitting, objective, steps, time)[
        : config.num_finalists
    ]


def score_texts(
    contexts: TextContexts,
    masks: Sequence[SkipMask],
    texts: Sequence[ScoredText],
    objective: Objective,
    steps: int = 1,
    time: TimeToScore | None = None,
) -> list[Trial]:
    """The trials of these masks on all texts, scored in batches; best first."""
    if not masks:
        return []
    time = time or TimeToScore()
    size = objective.config.batch_size
    scorer = make_scorer(contexts, texts, objective, steps)
    trials: list[Trial] = []
    for start in range(0, len(masks), size):
        time.on_step()
        batch = masks[start : start + size]
        trials += objective.evaluate_all(batch, scorer.score(batch))
    return sorted(trials, key=lambda trial: -trial.value)


def make_scorer(
    contexts: TextContexts, texts: Sequence[ScoredText], objective: Objective, steps: int = 1
) -> AnyScorer:
    """A scorer of drafts with the objective's draft configuration."""
    return scorer_of(contexts, texts, steps, objective.draft_config)


def score_while_time(
    contexts: TextContexts,
    mask: SkipMask,
    texts: Sequence[ScoredText],
    objective: Objective,
    time: TimeToScore,
    steps: int = 1,
) -> Trial:
    """The trial of a mask on as many of the first texts as fit; on two at least.

    A draft vocabulary is valued by the other texts of its scorer, so its texts are scored at once.
    """
    traces: list[Trace] = []
    rest = [text for text in texts if text.continuation]
    pace = time.pace
    while rest:
        count = len(rest)
        if pace is not None and time.deadline.is_finite:
            fitting = time.fitting_texts(rest, 1, steps)
            if objective.draft_config.vocab_size is not None:
                count = 0 if traces else max(FIRST_TEXTS, fitting)
            else:
                count = min(fitting, 2 * FIRST_TEXTS * len(traces)) if traces else FIRST_TEXTS
        part, rest = rest[:count], rest[count:]
        if not part:
            break
        time.on_step()
        clock = time.deadline.clock
        scorer = make_scorer(contexts, part, objective, steps)
        began = clock()
        traces += scorer.score([mask])
        if pace is not None:
            pace.measured(clock() - began, part, steps)
    return objective.evaluate(mask, Trace.concatenate(traces))


def predict_on(
    contexts: TextContexts,
    trial: Trial,
    texts: Sequence[ScoredText],
    objective: Objective,
    time: TimeToScore | None = None,
) -> Trial:
    """The trial of the same mask, γ and τ on other texts, as far as there is time to score them.

    The trial itself where there is no time for two of them.
    """
    assert trial.prediction is not None
    time = time or TimeToScore()
    fixed = replace(objective.config, gamma=trial.prediction.gamma, tau=trial.prediction.tau)
    objective = replace(objective, config=fixed)
    steps = _longest_draft(objective)
    if not time.fits(texts[:FIRST_TEXTS], 1, steps):
        return trial
    return score_while_time(contexts, trial.mask, texts, objective, time, steps)


def score_full_drafts(
    contexts: TextContexts,
    masks: Sequence[SkipMask],
    texts: Sequence[ScoredText],
    objective: Objective,
) -> list[Trial]:
    """Trials from full drafts, made with the objective's draft configuration."""
    steps = _longest_draft(objective)
    scorer = make_scorer(contexts, texts, objective, steps)
    return objective.evaluate_all(masks, scorer.score(masks))


def _longest_draft(objective: Objective) -> int:
    return len(objective.costs.verify) - 1
