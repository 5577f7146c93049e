"""The values that an Optuna study receives."""

from __future__ import annotations

from collections.abc import Sequence

from optuna import Study
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from skipopt.masks import MaskSpace, SkipMask, sublayer_name
from skipopt.samplers.optuna_samplers import OptunaSampler
from skipopt.samplers.registry import make_sampler

LAYERS = 12
SPACE = MaskSpace(LAYERS)


def objective(mask: SkipMask) -> float:
    return float(sum(mask.skipped))


class RecordingSampler(RandomSampler):
    """An Optuna sampler that records the values of its study."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.values: dict[SkipMask, float] = {}

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        if state == TrialState.COMPLETE and values is not None:
            bits = [int(trial.params[sublayer_name(i)]) for i in range(2 * LAYERS)]
            mask = SkipMask(LAYERS, frozenset(i for i, bit in enumerate(bits) if bit))
            self.values[mask] = values[0]


def test_an_optuna_study_receives_the_values_of_its_masks() -> None:
    replayed = make_sampler("tpe", SPACE, 0).ask(3)  # of its ten initial masks
    recorder = RecordingSampler()
    sampler = OptunaSampler(SPACE, 0, sampler=recorder, max_attempts=1)
    for mask in replayed:
        sampler.tell(mask, objective(mask))
    asked = sampler.ask(12)
    for mask in reversed(asked):
        sampler.tell(mask, objective(mask))
    assert recorder.values == {mask: objective(mask) for mask in asked}
