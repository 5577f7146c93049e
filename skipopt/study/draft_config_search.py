"""Finalists drafted with levers, beside those that only skip: priced and scored like them.

Masks were searched without levers. What a lever takes from a draft's price and from its acceptance
is measured here, for the best few masks and for none, and the confirmation decides between all.
Knows nothing of how masks were found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from skipopt.draft_config import Levers
from skipopt.masks import SkipMask
from skipopt.runtime.draft_mode import obstacles
from skipopt.runtime.kv_cache import SINKS
from skipopt.study.objective import Judge
from skipopt.study.rescoring import FINALISTS, judge_whole

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.scoring import Text
    from skipopt.storage.base import Trial
    from skipopt.study.config import Plan

MASKS = 3  # of the finalists, which are tried with every combination of levers
SECONDS = 2.0  # to price a combination


class Pulling:
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
        plan: Plan,
        judge: Judge,
        longest: int,
        time_is_up: Callable[[], bool],
        on_step: Callable[[], None],
        on_note: Callable[[str], None],
    ) -> None:
        self.judges: dict[Levers, Judge] = {judge.levers: judge}
        self._target, self._plan, self._longest = target, plan, longest
        self._time_is_up, self._on_step, self._on_note = time_is_up, on_step, on_note

    def extend(
        self, finalists: Sequence[Trial], texts: Sequence[Text], context: Sequence[int]
    ) -> list[Trial]:
        """The best of finalists and variants, best first, the best of every combination included.

        Args:
            context: the text after which rounds are priced.
        """
        found = list(finalists)
        for levers in self._to_try(texts):
            # Where there is nothing else to decode with, one is tried however late it is.
            if found and self._time_is_up():
                self._on_note(f"{levers} is not tried: the time for it is up")
                continue
            found += self._variants(levers, finalists[:MASKS], texts, context)
        return best_of_each(found)

    def _to_try(self, texts: Sequence[Text]) -> list[Levers]:
        longest = max(len(text.tokens) for text in texts)
        missing: set[Levers] = set()
        for levers in self._plan.combinations:
            reasons = obstacles(self._target, levers)
            if levers.window is not None and levers.window + SINKS >= longest:
                reasons[Levers(window=levers.window)] = (
                    f"the calibration texts have {longest} tokens at most"
                )
            for lever, reason in reasons.items():
                if lever not in missing:
                    self._on_note(f"{lever} is not tried: {reason}")
                missing.add(lever)
        return [each for each in self._plan.combinations if not _parts(each) & missing]

    def _variants(
        self,
        levers: Levers,
        finalists: Sequence[Trial],
        texts: Sequence[Text],
        context: Sequence[int],
    ) -> list[Trial]:
        from skipopt.bench.measure_costs import measure_prices

        self._on_step()
        prices = measure_prices(self._target, context, self._longest, SECONDS, levers=levers)
        judge = self.judges[levers] = Judge(self._plan, prices, levers)
        masks = [trial.mask for trial in finalists]
        if self._plan.skip_ratio is None:
            masks.append(SkipMask.empty(self._target.depth))
        self._on_step()
        return judge_whole(self._target, masks, texts, judge)


def _parts(levers: Levers) -> set[Levers]:
    return {Levers(bits=levers.bits), Levers(window=levers.window)} - {Levers()}


def best_of_each(trials: Sequence[Trial]) -> list[Trial]:
    """The highest few, and the highest of every combination of levers."""
    ranked = sorted(trials, key=lambda trial: -trial.value)
    seen: set[Levers] = set()
    kept: list[Trial] = []
    for place, trial in enumerate(ranked):
        if place < FINALISTS or trial.levers not in seen:
            kept.append(trial)
        seen.add(trial.levers)
    return kept
