"""Tries draft configurations without a mask: quantized draft weights, an attention
window, a draft vocabulary, fewer experts.

On stock models they pay more than masks do, and one of them takes seconds to try. So they come
first, and masks are then searched together with the best of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.runtime.attention_mask import SINKS
from skipopt.runtime.draft_mode import draftable_tokens, unsupported_reasons, with_vocabulary
from skipopt.study.objective import Objective
from skipopt.study.rescoring import TimeToScore, score_while_time
from skipopt.study.time_plan import PLAIN_STEPS_PER_CYCLE

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.models.target import Target
    from skipopt.scoring import ScoredText, TextContexts
    from skipopt.storage.base import Trial
    from skipopt.study.config import SearchConfig
    from skipopt.study.cost_source import CostSource

COST_SHARE = 0.6  # of the time of one draft configuration; the rest is for its acceptance


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trial, and the costs that its prediction used."""

    trial: Trial
    costs: Costs


@dataclass(slots=True, eq=False)
class DraftConfigSearch:
    """What is needed to try draft configurations.

    Attributes:
        contexts: of the target.
        cost_source: gives the costs of each draft configuration.
        context: token ids after which costs are measured.
        time: what there is for all of them.
        on_note: called with a line about each draft configuration that is not tried.
    """

    contexts: TextContexts
    config: SearchConfig
    cost_source: CostSource
    context: Sequence[int]
    time: TimeToScore
    on_note: Callable[[str], None]

    @property
    def target(self) -> Target:
        return self.contexts.target

    def try_alone(self, texts: Sequence[ScoredText]) -> list[Candidate]:
        """Each draft configuration with the empty mask, best first.

        The first one is tried however short the time is.
        """
        found: list[Candidate] = []
        configs, sizes = self._supported(texts), self._vocabulary_sizes()
        for number, draft_config in enumerate(configs):
            share = 1 / (len(configs) + len(sizes) - number)
            made = self._try(draft_config, texts, share, needed=not found)
            found += [] if made is None else [made]
        found.sort(key=lambda each: -each.trial.value)
        base = found[0].trial.draft_config if found else UNCHANGED
        found += self._try_vocabularies(base, sizes, texts, needed=not found)
        return sorted(found, key=lambda each: -each.trial.value)

    def _try_vocabularies(
        self,
        base: DraftConfig,
        sizes: Sequence[int],
        texts: Sequence[ScoredText],
        needed: bool,
    ) -> list[Candidate]:
        """The draft configuration with vocabularies, the largest first, until one is worse."""
        found: list[Candidate] = []
        tokens = [text.tokens for text in texts]
        for number, size in enumerate(reversed(sizes)):
            config = with_vocabulary(self.target, replace(base, vocab_size=size), tokens)
            share = 1 / (len(sizes) - number)
            made = self._try(config, texts, share, needed=needed and not found)
            if made is None:
                continue
            found.append(made)
            if len(found) > 1 and made.trial.value < found[-2].trial.value:
                break
        return found

    def _try(
        self, draft_config: DraftConfig, texts: Sequence[ScoredText], share: float, needed: bool
    ) -> Candidate | None:
        """A candidate; None, with a note, if there is no time for it.

        Args:
            share: of the time that is left.
            needed: try it however short the time is.
        """
        if not needed and not self.fits(texts):
            self.on_note(f"{draft_config} is not tried: no time is left for it")
            return None
        return self.try_one(self._empty, draft_config, texts, self.time.part(share))

    def measure_costs(self, draft_config: DraftConfig, seconds: float, time: TimeToScore) -> Costs:
        """The costs of drafts, within the time where it is long enough for one cycle."""
        self.time.on_step()
        return self.cost_source.costs(
            self.target,
            self.context,
            self.config.longest_verification,
            seconds,
            draft_config,
            time.deadline.left,
        )

    def try_one(
        self,
        mask: SkipMask,
        draft_config: DraftConfig,
        texts: Sequence[ScoredText],
        time: TimeToScore,
    ) -> Candidate:
        """A mask with a draft configuration: its costs, and its trial on as many texts as fit."""
        seconds = self.config.draft_config_cost_seconds
        costs = self.measure_costs(draft_config, seconds, time.part(COST_SHARE))
        objective = Objective(self.config, costs, draft_config)
        return Candidate(score_while_time(self.contexts, mask, texts, objective, time), costs)

    @property
    def _empty(self) -> SkipMask:
        return SkipMask.empty(self.target.depth)

    def fits(self, texts: Sequence[ScoredText]) -> bool:
        """Whether there is time for the least measurement of one draft configuration."""
        if self.time.pace is None:
            return True
        cycles = 2 * PLAIN_STEPS_PER_CYCLE * self.time.pace.token
        return self.time.deadline.fits(cycles + self.time.seconds(self.time.pace, texts[:2]))

    def _vocabulary_sizes(self) -> list[int]:
        """Of the draft vocabularies that this model allows, ascending."""
        sizes = self.config.vocab_sizes(draftable_tokens(self.target) or self.target.vocab_size)
        found: list[int] = []
        for size in sizes:
            reasons = unsupported_reasons(self.target, DraftConfig(vocab_size=size))
            for part, reason in reasons.items():
                self.on_note(f"{part} is not tried: {reason}")
            found += [] if reasons else [size]
        return found

    def _supported(self, texts: Sequence[ScoredText]) -> list[DraftConfig]:
        """The draft configurations that this machine and these texts allow."""
        reasons: dict[DraftConfig, str] = {}
        for draft_config in self.config.draft_configs:
            reasons |= self._reasons_against(draft_config, texts)
        for part, reason in reasons.items():
            self.on_note(f"{part} is not tried: {reason}")
        return [
            each for each in self.config.draft_configs if reasons.keys().isdisjoint(each.parts)
        ]

    def _reasons_against(
        self, draft_config: DraftConfig, texts: Sequence[ScoredText]
    ) -> dict[DraftConfig, str]:
        reasons = dict(unsupported_reasons(self.target, draft_config))
        longest = max(len(text.tokens) for text in texts)
        window = draft_config.attention_window
        if window is not None and window + SINKS >= longest:
            reasons[DraftConfig(attention_window=window)] = (
                f"the calibration texts have {longest} tokens at most"
            )
        return reasons


def still_winning(candidates: Sequence[Candidate], config: SearchConfig) -> list[Candidate]:
    """What can still win, best first: not what is predicted to lose, or far behind the best."""
    kept = best_per_draft_config(candidates, config.num_finalists)
    if config.objective != "speed":
        return kept
    least = max(1.0, (1 - config.finalist_margin) * kept[0].trial.value)
    return [each for each in kept if each.trial.value >= least] or kept[:1]


def best_per_draft_config(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """The best `count` candidates, and the best of each draft configuration; best first.

    With and without a mask apart: predictions of masks from one-token drafts are more optimistic.
    Draft vocabularies of every size count as one draft configuration.
    """
    ranked = sorted(candidates, key=lambda each: -each.trial.value)
    seen: set[tuple[DraftConfig, bool]] = set()
    kept: list[Candidate] = []
    for rank, each in enumerate(ranked):
        kind = _kind(each.trial.draft_config), bool(each.trial.mask.skipped)
        if rank < count or kind not in seen:
            kept.append(each)
        seen.add(kind)
    return kept


def _kind(draft_config: DraftConfig) -> DraftConfig:
    """The same for vocabularies of every size."""
    size = None if draft_config.vocab_size is None else 1
    return replace(draft_config, vocab_size=size, vocabulary=None)
