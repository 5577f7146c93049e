"""Optuna's TPE and Gaussian process as samplers over masks.

One in-memory study per sampler, asked and told by hand, begun at sparse masks. Optuna repeats
points by design; a repeat is failed and replaced by an unvisited neighbour. Over 32 sublayers at
100 observations one mask costs `tpe` 0.07 s and `gp` 0.3–1.7 s, eight cost 0.5 s and 2.5 s; over
64 sublayers at 50 observations eight cost `gp` 7 s (one core). `gp` imports torch.
Source: optuna 5.0.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

from skipopt.masks import MaskSpace, SkipMask, sublayer_name
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MaskRegistry, take
from skipopt.samplers.initial_masks import initial_masks

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler as OptunaBaseSampler
    from optuna.trial import Trial

STARTS = 10


def tpe(space: MaskSpace, seed: int, visited: MaskRegistry | None = None) -> BaseSampler:
    """Tree-structured Parzen estimators."""
    from optuna.samplers import TPESampler

    sampler = TPESampler(seed=seed, n_startup_trials=STARTS)
    return OptunaSampler(space, seed, sampler, tries=5, visited=visited)


def gp(space: MaskSpace, seed: int, visited: MaskRegistry | None = None) -> BaseSampler:
    """Gaussian process with expected improvement."""
    from optuna.samplers import GPSampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `deterministic_objective` is called experimental
        sampler = GPSampler(seed=seed, n_startup_trials=STARTS, deterministic_objective=True)
    # It would propose the same mask again: go to a neighbour at the first repeat.
    return OptunaSampler(space, seed, sampler, tries=1, visited=visited)


class OptunaSampler:
    """Any Optuna sampler over the bits of a mask, or over their scores where the count is fixed.

    Args:
        tries: how often to ask Optuna for a mask that is new before taking a neighbour; 1 or more.
    """

    def __init__(
        self,
        space: MaskSpace,
        seed: int,
        sampler: OptunaBaseSampler,
        tries: int,
        visited: MaskRegistry | None = None,
    ) -> None:
        rng = Random(seed)
        self._visited = MaskRegistry(space, rng) if visited is None else visited
        self._codec = _Codec(space)
        self._study = _new_study(sampler)
        self._tries = tries
        self._running: dict[SkipMask, Trial] = {}
        self._starts = initial_masks(space, rng, STARTS)

    def ask(self, count: int) -> list[SkipMask]:
        return take(self._proposals(), count)

    def tell(self, mask: SkipMask, value: float) -> None:
        learned = self._visited.record(mask, value)
        trial = self._running.pop(mask, None)
        if trial is None and learned:
            self._add(mask, value)
        elif trial is not None and learned:
            self._study.tell(trial, float(value))
        elif trial is not None:
            self._fail(trial)

    def _proposals(self) -> Iterator[SkipMask]:
        while self._starts:
            if self._visited.claim(start := self._starts.pop(0)):
                yield self._run(start)
        while not self._visited.exhausted and (mask := self._next()) is not None:
            yield mask

    def _next(self) -> SkipMask | None:
        for _ in range(self._tries):
            trial, mask = self._ask_study()
            if self._visited.claim(mask):
                self._running[mask] = trial
                return mask
            self._fail(trial)
        neighbour = self._visited.near(mask)
        return None if neighbour is None else self._run(neighbour)

    def _run(self, mask: SkipMask) -> SkipMask:
        """Have the study ask for a claimed mask of our choice."""
        self._study.enqueue_trial(self._codec.params(mask))
        self._running[mask], _ = self._ask_study()
        return mask

    def _ask_study(self) -> tuple[Trial, SkipMask]:
        with _quiet():
            trial = self._study.ask(self._codec.distributions)
        return trial, self._codec.mask(trial.params)

    def _fail(self, trial: Trial) -> None:
        from optuna.trial import TrialState

        self._study.tell(trial, state=TrialState.FAIL)

    def _add(self, mask: SkipMask, value: float) -> None:
        from optuna.trial import create_trial

        self._study.add_trial(
            create_trial(
                value=float(value),
                params=self._codec.params(mask),
                distributions=self._codec.distributions,
            )
        )


class _Codec:
    """Masks as Optuna parameters named `attn.07`, `mlp.07`.

    Free count: integers 0 or 1, which TPE and GP handle better than categories. Fixed count k:
    scores in [0, 1], of which the k highest are skipped.
    """

    def __init__(self, space: MaskSpace) -> None:
        from optuna.distributions import FloatDistribution, IntDistribution

        one = IntDistribution(0, 1) if space.skip_count is None else FloatDistribution(0.0, 1.0)
        self._space = space
        self._names = {i: sublayer_name(i) for i in space.free}
        self.distributions: dict[str, BaseDistribution] = dict.fromkeys(self._names.values(), one)

    def params(self, mask: SkipMask) -> dict[str, int | float]:
        high, low = (1, 0) if self._space.skip_count is None else (0.75, 0.25)
        return {name: high if i in mask.skipped else low for i, name in self._names.items()}

    def mask(self, params: Mapping[str, Any]) -> SkipMask:
        free, count = self._space.free, self._space.skip_count
        if count is None:
            return self._space.mask(i for i in free if params[self._names[i]])
        order = sorted(free, key=lambda i: -params[self._names[i]])
        return self._space.mask(order[:count])


def _new_study(sampler: OptunaBaseSampler) -> Study:
    import optuna

    with _quiet():
        return optuna.create_study(direction="maximize", sampler=sampler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from announcing a study, or that an optional speed-up is missing.

    Its verbosity is global, so it is put back at once.
    """
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(max(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)
