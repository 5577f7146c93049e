"""Masks for longer texts, where attention costs more and an MLP costs the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

from skipopt.measurement.workload import OnlyRepetition
from skipopt.scoring import ScoredText, TextContexts
from skipopt.study.calibration import calibrate
from skipopt.study.objective import Objective
from skipopt.study.rescoring import make_scorer, predict_on, score_full_drafts

if TYPE_CHECKING:
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target
    from skipopt.storage.base import Trial
    from skipopt.study.config import SearchConfig
    from skipopt.study.cost_source import CostSource


@dataclass(frozen=True, slots=True)
class ContextBucket:
    """The trial whose mask, γ and τ are used from a context of `min_context` tokens on."""

    min_context: int
    trial: Trial


@dataclass(slots=True, eq=False)
class ContextBucketSearch:
    """What is needed to choose masks for longer texts.

    Attributes:
        cost_source: gives the costs at each length.
        prompts: token ids; they are concatenated until they are long enough.
        masks: to choose from, in addition to neighbors of the best one.
        on_step: called often.
        has_time: whether there is time for a length.
        on_note: called with a line about lengths that there is no time for.
    """

    target: Target
    config: SearchConfig
    cost_source: CostSource
    prompts: Sequence[Sequence[int]]
    masks: Sequence[SkipMask]
    on_step: Callable[[], None]
    has_time: Callable[[int], bool] = lambda length: True
    on_note: Callable[[str], None] = lambda line: None

    def buckets(self, base: Trial) -> list[ContextBucket]:
        """A bucket for each context length at which another mask is predicted to be better.

        Args:
            base: the trial used below the first length.
        """
        found: list[ContextBucket] = []
        for length in self.config.context_lengths:
            if not self.has_time(length):
                self.on_note(
                    f"no other mask is tried for texts of {length} tokens and more: "
                    "no time is left for it"
                )
                break
            better = self._better_trial(length, base)
            if better is not None:
                base = better
                found.append(ContextBucket(length, better))
        return found

    def _better_trial(self, length: int, base: Trial) -> Trial | None:
        """The best trial at this length; None unless it is clearly better than `base`."""
        try:
            texts = self._texts(length)
        except OnlyRepetition:
            return None
        objective = self._objective(texts, base)
        contexts = TextContexts(self.target)
        best = self._best_trial(contexts, texts, base, objective)
        same_mask = predict_on(contexts, base, texts, objective)
        enough = same_mask.value * (1 + self.config.context_min_gain)
        return best if best.value > enough else None

    def _texts(self, length: int) -> tuple[ScoredText, ...]:
        prompts = list(stretch_prompts(self.prompts, length, self.config.context_prompts))
        return calibrate(self.target, prompts, self.config.context_tokens, self.on_step).texts

    def _objective(self, texts: Sequence[ScoredText], base: Trial) -> Objective:
        costs = self.cost_source.costs(
            self.target,
            texts[0].tokens,
            self.config.longest_verification,
            self.config.context_cost_seconds,
            base.draft_config,
        )
        return Objective(self.config, costs, base.draft_config)

    def _best_trial(
        self,
        contexts: TextContexts,
        texts: Sequence[ScoredText],
        base: Trial,
        objective: Objective,
    ) -> Trial:
        """Score all masks with one-token drafts, and the best of them with full drafts."""
        masks = self._masks_near(base.mask)
        scorer = make_scorer(contexts, texts, objective)
        trials = objective.evaluate_all(masks, scorer.score(masks))
        trials.sort(key=lambda trial: -trial.value)
        self.on_step()
        best = [trial.mask for trial in trials[: self.config.context_full_draft]]
        masks = list(dict.fromkeys([base.mask, *best]))
        rescored = score_full_drafts(contexts, masks, texts, objective)
        return max(rescored, key=lambda trial: trial.value)

    def _masks_near(self, mask: SkipMask) -> list[SkipMask]:
        neighbors = self.config.mask_space(self.target.depth, self.target.unskippable).neighbors(
            mask
        )
        near = islice(neighbors, self.config.context_neighbors)
        return list(dict.fromkeys([mask, *self.masks, *near]))


def stretch_prompts(
    prompts: Sequence[Sequence[int]], length: int, count: int
) -> Iterator[tuple[int, ...]]:
    """Up to `count` prompts of `length` tokens: each with others before it, cut at its start."""
    for i in range(min(count, len(prompts))):
        others = [*prompts[i + 1 :], *prompts[:i]] or [prompts[i]]
        text = list(prompts[i])
        for other in cycle(others):
            if len(text) >= length:
                break
            text = [*other, *text]
        yield tuple(text[len(text) - length :])
