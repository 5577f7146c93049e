"""Optuna's TPE and Gaussian process as samplers over masks.

Each sampler drives an in-memory Optuna study by ask and tell, started with sparse masks. Optuna
may propose a point twice; the repeated trial is failed and an unclaimed neighbor takes its place.

Time per mask at 100 observations over 32 sublayers: `tpe` 0.07 s, `gp` 0.3–1.7 s; eight masks take
0.5 s and 2.5 s. Over 64 sublayers at 50 observations, eight take `gp` 7 s (one core, Optuna 5.0).
`gp` imports torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

from skipopt.masks import MaskSpace, SkipMask, sublayer_name
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MaskRegistry
from skipopt.samplers.initial_masks import initial_masks

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

STARTUP_TRIALS = 10
NUMPY_SEEDS = 1 << 32  # numpy's generators take smaller seeds


def tpe_sampler(space: MaskSpace, seed: int, registry: MaskRegistry | None = None) -> BaseSampler:
    """Tree-structured Parzen estimators."""
    from optuna.samplers import TPESampler

    sampler = TPESampler(seed=seed % NUMPY_SEEDS, n_startup_trials=STARTUP_TRIALS)
    return OptunaSampler(space, seed, registry, sampler=sampler, max_attempts=5)


def gp_sampler(space: MaskSpace, seed: int, registry: MaskRegistry | None = None) -> BaseSampler:
    """A Gaussian process with expected improvement."""
    from optuna.samplers import GPSampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `deterministic_objective` is marked experimental
        sampler = GPSampler(
            seed=seed % NUMPY_SEEDS, n_startup_trials=STARTUP_TRIALS, deterministic_objective=True
        )
    # Asked again without a new value, it proposes the same mask.
    return OptunaSampler(space, seed, registry, sampler=sampler, max_attempts=1)


class OptunaSampler(BaseSampler):
    """Any Optuna sampler, over the bits of a mask or over scores where the skip count is fixed.

    Args:
        sampler: of a study that maximizes.
        max_attempts: how often Optuna is asked for an unclaimed mask before a neighbor is taken;
            1 or more.
    """

    def __init__(
        self,
        space: MaskSpace,
        seed: int,
        registry: MaskRegistry | None = None,
        *,
        sampler: optuna.samplers.BaseSampler,
        max_attempts: int,
    ) -> None:
        rng = Random(seed)
        super().__init__(space, seed, MaskRegistry(space, rng) if registry is None else registry)
        self._parameters = _MaskParameters(space)
        self._study = _create_study(sampler)
        self._max_attempts = max_attempts
        self._running: dict[SkipMask, optuna.Trial] = {}
        self._initial = initial_masks(space, rng, STARTUP_TRIALS)

    def tell(self, mask: SkipMask, value: float) -> None:
        is_valid = self.registry.record(mask, value)
        trial = self._running.pop(mask, None)
        if trial is None and is_valid:
            self._add(mask, value)
        elif trial is not None and is_valid:
            self._study.tell(trial, float(value))
        elif trial is not None:
            self._fail(trial)

    def proposals(self) -> Iterator[SkipMask]:
        while self._initial:
            if self.registry.claim(mask := self._initial.pop(0)):
                yield self._run(mask)
        while not self.registry.exhausted and (found := self._next()) is not None:
            yield found

    def _next(self) -> SkipMask | None:
        for _ in range(self._max_attempts):
            trial, mask = self._ask_study()
            if self.registry.claim(mask):
                self._running[mask] = trial
                return mask
            self._fail(trial)
        neighbor = self.registry.claim_neighbor(mask)
        return None if neighbor is None else self._run(neighbor)

    def _run(self, mask: SkipMask) -> SkipMask:
        """Start a trial of the given claimed mask."""
        self._study.enqueue_trial(self._parameters.encode(mask))
        self._running[mask], _ = self._ask_study()
        return mask

    def _ask_study(self) -> tuple[optuna.Trial, SkipMask]:
        with _errors_only():
            trial = self._study.ask(self._parameters.distributions)
        return trial, self._parameters.decode(trial.params)

    def _fail(self, trial: optuna.Trial) -> None:
        from optuna.trial import TrialState

        self._study.tell(trial, state=TrialState.FAIL)

    def _add(self, mask: SkipMask, value: float) -> None:
        from optuna.trial import create_trial

        self._study.add_trial(
            create_trial(
                value=float(value),
                params=self._parameters.encode(mask),
                distributions=self._parameters.distributions,
            )
        )


class _MaskParameters:
    """Masks as Optuna parameters named `attn.07`, `mlp.07`.

    Free skip count: integers 0 or 1, which TPE and GP handle better than categories. Fixed count
    k: scores in [0, 1]; the k sublayers of highest score are skipped.
    """

    def __init__(self, space: MaskSpace) -> None:
        from optuna.distributions import FloatDistribution, IntDistribution

        one = IntDistribution(0, 1) if space.skip_count is None else FloatDistribution(0.0, 1.0)
        self._space = space
        self._names = {i: sublayer_name(i) for i in space.free}
        self.distributions: dict[str, BaseDistribution] = dict.fromkeys(self._names.values(), one)

    def encode(self, mask: SkipMask) -> dict[str, int | float]:
        high, low = (1, 0) if self._space.skip_count is None else (0.75, 0.25)
        return {name: high if i in mask.skipped else low for i, name in self._names.items()}

    def decode(self, params: Mapping[str, Any]) -> SkipMask:
        free, count = self._space.free, self._space.skip_count
        if count is None:
            return self._space.mask(i for i in free if params[self._names[i]])
        order = sorted(free, key=lambda i: -params[self._names[i]])
        return self._space.mask(order[:count])


def _create_study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    import optuna

    with _errors_only():
        return optuna.create_study(direction="maximize", sampler=sampler)


@contextmanager
def _errors_only() -> Iterator[None]:
    """Silence Optuna's messages about a new study and missing optional packages.

    Its verbosity is global to the process, so the former one is restored.
    """
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(max(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)
