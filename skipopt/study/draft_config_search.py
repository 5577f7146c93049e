"""Finalists drafted with levers, beside those that only skip: priced and scored like them.

Masks were searched without levers. What a lever takes from a draft's price and from its acceptance
is measured here, for the best few masks and for none, and the confirmation decides between all.
Knows nothing of how masks were found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from skipopt.draft_config import DraftConfig
from skipopt.masks import SkipMask
from skipopt.runtime.attention_mask import SINKS
from skipopt.runtime.draft_mode import unsupported_reasons
from skipopt.study.objective import Objective
from skipopt.study.rescoring import FINALISTS, score_full_drafts

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.scoring import ScoredText
    from skipopt.storage.base import Trial
    from skipopt.study.config import SearchConfig

MASKS = 3  # of the finalists, which are tried with every combination of levers
SECONDS = 2.0  # to price a combination


class DraftConfigSearch:
    """Tries combinations of levers.

    Args:
        judge: of masks alone.
        longest: tokens of the longest verification that is priced.
        time_is_up: asked before each.
        on_note: told of what is left out.

    Attributes:
        judges: of each combination that was tried, with the prices of drafts made so.
    """

    def __init__(
        self,
        target: Target,
        config: SearchConfig,
        judge: Objective,
        longest: int,
        time_is_up: Callable[[], bool],
        on_step: Callable[[], None],
        on_note: Callable[[str], None],
    ) -> None:
        self.judges: dict[DraftConfig, Objective] = {judge.draft_config: judge}
        self._target, self._config, self._longest = target, config, longest
        self._time_is_up, self._on_step, self._on_note = time_is_up, on_step, on_note

    def extend(
        self, finalists: Sequence[Trial], texts: Sequence[ScoredText], context: Sequence[int]
    ) -> list[Trial]:
        """The best of finalists and variants, best first, the best of every combination included.

        Args:
            context: the text after which rounds are priced.
        """
        found = list(finalists)
        for draft_config in self._to_try(texts):
            # Where there is nothing else to decode with, one is tried however late it is.
            if found and self._time_is_up():
                self._on_note(f"{draft_config} is not tried: the time for it is up")
                continue
            found += self._variants(draft_config, finalists[:MASKS], texts, context)
        return best_of_each(found)

    def _to_try(self, texts: Sequence[ScoredText]) -> list[DraftConfig]:
        longest = max(len(text.tokens) for text in texts)
        missing: set[DraftConfig] = set()
        for draft_config in self._config.draft_configs:
            reasons = unsupported_reasons(self._target, draft_config)
            if (
                draft_config.attention_window is not None
                and draft_config.attention_window + SINKS >= longest
            ):
                reasons[DraftConfig(attention_window=draft_config.attention_window)] = (
                    f"the calibration texts have {longest} tokens at most"
                )
            for lever, reason in reasons.items():
                if lever not in missing:
                    self._on_note(f"{lever} is not tried: {reason}")
                missing.add(lever)
        return [each for each in self._config.draft_configs if not _parts(each) & missing]

    def _variants(
        self,
        draft_config: DraftConfig,
        finalists: Sequence[Trial],
        texts: Sequence[ScoredText],
        context: Sequence[int],
    ) -> list[Trial]:
        from skipopt.bench.cost_measurement import measure_costs

        self._on_step()
        costs = measure_costs(
            self._target, context, self._longest, SECONDS, draft_config=draft_config
        )
        judge = self.judges[draft_config] = Objective(self._config, costs, draft_config)
        masks = [trial.mask for trial in finalists]
        if self._config.skip_ratio is None:
            masks.append(SkipMask.empty(self._target.depth))
        self._on_step()
        return score_full_drafts(self._target, masks, texts, judge)


def _parts(draft_config: DraftConfig) -> set[DraftConfig]:
    return {
        DraftConfig(weight_bits=draft_config.weight_bits),
        DraftConfig(attention_window=draft_config.attention_window),
    } - {DraftConfig()}


def best_of_each(trials: Sequence[Trial]) -> list[Trial]:
    """The highest few, and the highest of every combination of levers."""
    ranked = sorted(trials, key=lambda trial: -trial.value)
    seen: set[DraftConfig] = set()
    kept: list[Trial] = []
    for place, trial in enumerate(ranked):
        if place < FINALISTS or trial.draft_config not in seen:
            kept.append(trial)
        seen.add(trial.draft_config)
    return kept
