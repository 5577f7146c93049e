"""Masks for longer texts: attention's price grows with what stands before it, an MLP's does not.

Knows nothing of how the masks that it chooses from were found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from skipopt.bench.workload import OnlyRepetition
from skipopt.study.calibration import continue_prompts
from skipopt.study.to_profile import predicted_section

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target
    from skipopt.storage.base import Trial
    from skipopt.study.config import SearchConfig


@dataclass(frozen=True, slots=True)
class ContextLengths:
    """What is needed to choose masks for longer texts.

    Attributes:
        prompts: token ids; they are put one behind the other until they are long enough.
        masks: to choose from, the best at ordinary lengths first.
        longest: tokens of the longest verification that is priced.
    """

    target: Target
    config: SearchConfig
    prompts: Sequence[Sequence[int]]
    masks: Sequence[SkipMask]
    longest: int

    def buckets(
        self, starts: Sequence[int], base: Trial, on_step: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """Masks from these lengths on, where they promise more than the one in force before."""
        found: list[dict[str, Any]] = []
        for start in starts:
            chosen = self._choose(start, base, on_step)
            if chosen is not None:
                base = chosen
                found.append(_bucket(start, chosen))
        return found

    def _choose(self, start: int, base: Trial, on_step: Callable[[], None]) -> Trial | None:
        """The best trial at this length; None where `base` is as good."""
        from skipopt.bench.cost_measurement import measure_costs
        from skipopt.scoring import Scorer
        from skipopt.study.objective import Objective

        prompts = list(stretched(self.prompts, start, self.config.context_prompts))
        try:
            texts = continue_prompts(
                self.target, prompts, self.config.context_tokens, on_step
            ).texts
        except OnlyRepetition:
            return None  # as at the length before
        costs: Costs = measure_costs(
            self.target,
            texts[0].tokens,
            self.longest,
            self.config.context_cost_seconds,
            draft_config=base.draft_config,
        )
        judge = Objective(self.config, costs, base.draft_config)
        first = Scorer(self.target, texts, draft_config=base.draft_config)
        masks = self._candidates(base)
        judged = [judge.evaluate(m, t) for m, t in zip(masks, first.score(masks), strict=True)]
        judged.sort(key=lambda trial: -trial.value)
        on_step()
        whole = Scorer(self.target, texts, self.longest - 1, draft_config=base.draft_config)
        near = list(
            dict.fromkeys([base.mask, *(t.mask for t in judged[: self.config.context_full_draft])])
        )
        traces = dict(zip(near, whole.score(near), strict=True))
        best = max(
            (judge.evaluate(m, t) for m, t in traces.items()), key=lambda trial: trial.value
        )
        assert base.prediction is not None
        fixed = replace(self.config, gamma=base.prediction.gamma, tau=base.prediction.tau)
        before = Objective(fixed, costs, base.draft_config).evaluate(base.mask, traces[base.mask])
        return best if best.value > before.value * (1 + self.config.context_min_gain) else None

    def _candidates(self, base: Trial) -> list[SkipMask]:
        near = islice(
            self.config.mask_space(self.target.depth).neighbors(base.mask),
            self.config.context_neighbors,
        )
        return list(dict.fromkeys([base.mask, *self.masks, *near]))


def stretched(
    prompts: Sequence[Sequence[int]], length: int, count: int
) -> Iterator[tuple[int, ...]]:
    """Prompts of `length` tokens: each at the end of others, their beginning cut off."""
    for i in range(min(count, len(prompts))):
        before = [*prompts[i + 1 :], *prompts[:i]] or [prompts[i]]
        text = list(prompts[i])
        for other in cycle(before):
            if len(text) >= length:
                break
            text = [*other, *text]
        yield tuple(text[len(text) - length :])


def _bucket(start: int, trial: Trial) -> dict[str, Any]:
    prediction = trial.prediction
    assert prediction is not None
    return {
        "min_context": start,
        "mask": {"attention": trial.mask.attention, "mlp": trial.mask.mlp},
        "drafting": {"gamma": prediction.gamma, "tau": prediction.tau},
        "predicted": predicted_section(prediction),
    }
