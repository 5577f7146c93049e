"""Tries the best masks with quantized draft weights, an attention window, a draft vocabulary.

Masks are searched without them. What a draft configuration saves, and what it takes from the
acceptance rate, is measured for the best few masks and for the empty one; validation then decides
between all finalists.
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
from skipopt.study.rescoring import score_full_drafts

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.models.target import Target
    from skipopt.scoring import ScoredText
    from skipopt.storage.base import Trial
    from skipopt.study.config import SearchConfig
    from skipopt.study.cost_source import CostSource


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trial from full drafts, and the costs that its prediction used."""

    trial: Trial
    costs: Costs


@dataclass(slots=True, eq=False)
class DraftConfigSearch:
    """What is needed to try draft configurations.

    Attributes:
        cost_source: gives the costs of each draft configuration.
        context: token ids after which costs are measured.
        time_is_up: asked before each draft configuration.
        on_step: called often.
        on_note: called with a line about each draft configuration that is not tried.
    """

    target: Target
    config: SearchConfig
    cost_source: CostSource
    context: Sequence[int]
    time_is_up: Callable[[], bool]
    on_step: Callable[[], None]
    on_note: Callable[[str], None]

    def try_draft_configs(
        self, finalists: Sequence[Candidate], texts: Sequence[ScoredText]
    ) -> list[Candidate]:
        """The finalists and their variants, best first.

        Returns:
            The best few of all, and the best of each draft configuration.
        """
        found = list(finalists)
        masks = [each.trial.mask for each in finalists[: self.config.num_draft_config_masks]]
        self._try(self._supported(texts), masks, texts, found)
        best = max(found, key=lambda each: each.trial.value, default=None)
        base = UNCHANGED if best is None else best.trial.draft_config
        self._try(self._with_vocabularies(base, texts), masks, texts, found)
        return best_per_draft_config(found, self.config.num_finalists)

    def _try(
        self,
        draft_configs: Sequence[DraftConfig],
        masks: Sequence[SkipMask],
        texts: Sequence[ScoredText],
        found: list[Candidate],
    ) -> None:
        """Add candidates to `found` until the time is up."""
        for draft_config in draft_configs:
            # Without any finalist, one is tried however late it is.
            if found and self.time_is_up():
                self.on_note(f"{draft_config} is not tried: no time is left for it")
                continue
            found += self._variants(draft_config, masks, texts)

    def _with_vocabularies(
        self, base: DraftConfig, texts: Sequence[ScoredText]
    ) -> list[DraftConfig]:
        """The draft configuration with each size of vocabulary, made from the texts."""
        sizes = self.config.vocab_sizes(draftable_tokens(self.target) or self.target.vocab_size)
        found: list[DraftConfig] = []
        for size in sizes:
            reasons = unsupported_reasons(self.target, DraftConfig(vocab_size=size))
            for part, reason in reasons.items():
                self.on_note(f"{part} is not tried: {reason}")
            if not reasons:
                tokens = [text.tokens for text in texts]
                found.append(with_vocabulary(self.target, replace(base, vocab_size=size), tokens))
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

    def _variants(
        self, draft_config: DraftConfig, masks: Sequence[SkipMask], texts: Sequence[ScoredText]
    ) -> list[Candidate]:
        """Candidates with these masks, and with the empty one unless the skip ratio is fixed."""
        self.on_step()
        costs = self.cost_source.costs(
            self.target,
            self.context,
            self.config.longest_verification,
            self.config.draft_config_cost_seconds,
            draft_config,
        )
        self.on_step()
        if self.config.skip_ratio is None:
            masks = [*masks, SkipMask.empty(self.target.depth)]
        objective = Objective(self.config, costs, draft_config)
        trials = score_full_drafts(self.target, masks, texts, objective)
        return [Candidate(trial, costs) for trial in trials]


def best_per_draft_config(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """The best `count` candidates, and the best of each draft configuration; best first.

    Draft vocabularies of every size count as one draft configuration.
    """
    ranked = sorted(candidates, key=lambda each: -each.trial.value)
    seen: set[DraftConfig] = set()
    kept: list[Candidate] = []
    for rank, each in enumerate(ranked):
        kind = _kind(each.trial.draft_config)
        if rank < count or kind not in seen:
            kept.append(each)
        seen.add(kind)
    return kept


def _kind(draft_config: DraftConfig) -> DraftConfig:
    """The same for vocabularies of every size."""
    size = None if draft_config.vocab_size is None else 1
    return replace(draft_config, vocab_size=size, vocabulary=None)
