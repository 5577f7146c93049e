"""Turns the result of a search into a profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import exp
from typing import TYPE_CHECKING, Any, Literal

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.measurement.provenance import environment_of
from skipopt.methods import METHODS, MethodSpec
from skipopt.profile import Profile
from skipopt.profile.sections import draft_config_keys
from skipopt.runtime.draft_mode import draft_weight_bytes
from skipopt.study.config import LAYER_SKIP

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.cost_model.prediction import Prediction
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target
    from skipopt.stats import Interval
    from skipopt.storage.base import Trial
    from skipopt.study.ablation import Gain, Part
    from skipopt.study.config import SearchConfig
    from skipopt.study.context_buckets import ContextBucket
    from skipopt.study.validation import Validated


@dataclass(frozen=True, slots=True)
class UsedPrompts:
    """What a profile records of the prompts of its search.

    Attributes:
        digest: of all prompts of the set.
        chat_template: `sha256:…` of the model's template; None where no prompt went through it.
        categories: number of prompts used of each category.
    """

    digest: str
    chat_template: str | None = None
    categories: tuple[tuple[str, int], ...] = ()

    @property
    def identity(self) -> str:
        """Equal where the model is given the same tokens."""
        return " ".join(filter(None, (self.digest, self.chat_template)))


@dataclass(frozen=True, slots=True)
class SearchCost:
    """What a search has cost so far.

    Attributes:
        seconds_by_phase: of `seconds`, by the name of the phase.
    """

    trials: int
    seconds: float
    seconds_by_phase: Mapping[str, float] = field(default_factory=dict)

    def break_even_tokens(self, winner: Validated | None) -> int | None:
        """Generated tokens after which the search has saved its own time; None: never."""
        if winner is None or winner.expected.log_speedup <= 0:
            return None
        saved = (1 - exp(-winner.expected.log_speedup)) / winner.plain_tokens_per_second
        return round(self.seconds / saved)


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """A method that did not win.

    Attributes:
        vs_winner: `ahead` of the winner on average, but not significantly or not losslessly;
            `tied` (not significantly slower); or `behind`.
        predicted: its speedup before the validation; None if there was no prediction.
    """

    method: str
    speedup: Interval
    vs_winner: Literal["ahead", "tied", "behind"]
    predicted: float | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search has found.

    Attributes:
        trial: the best, or that of the winner.
        winner: measured results; None before validation.
        off_reason: why speculation does not pay; None: it does.
        baselines: other methods in the same runs.
        costs: those that the prediction of `trial` used.
        candidate: the best trial that skips anything; told where `trial` does not.
        buckets: trials for longer texts.
        gains: of each part of the drafts, where that is known.
    """

    trial: Trial
    winner: Validated | None = None
    off_reason: str | None = None
    baselines: tuple[BaselineResult, ...] = ()
    costs: Costs | None = None
    candidate: Trial | None = None
    buckets: tuple[ContextBucket, ...] = ()
    gains: Mapping[Part, Gain] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return self.winner.method if self.winner else LAYER_SKIP

    @property
    def draft_config(self) -> DraftConfig:
        """What the method drafts with."""
        return self.trial.draft_config if METHODS[self.method].takes_draft_config else UNCHANGED

    @property
    def prediction(self) -> Prediction | None:
        """Of the method."""
        if self.winner is None or self.method == LAYER_SKIP:
            return self.trial.prediction
        return self.winner.prediction

    @property
    def masks(self) -> list[SkipMask]:
        """Of the profile, for longer texts too."""
        return [self.trial.mask, *(bucket.trial.mask for bucket in self.buckets)]


def to_profile(
    target: Target,
    config: SearchConfig,
    prompts: UsedPrompts,
    cost: SearchCost,
    result: SearchResult,
) -> Profile:
    """The profile of a search result.

    Args:
        cost: of the search so far.
    """
    trial, prediction, best = result.trial, result.trial.prediction, result.candidate
    return Profile.build(
        target,
        trial.mask,
        method=result.method,
        gamma=prediction.gamma if prediction else 1,
        tau=prediction.tau if prediction else 0.0,
        draft_config=trial.draft_config,
        enabled=result.off_reason is None,
        reason=result.off_reason,
        contexts=[_context_section(bucket) for bucket in result.buckets],
        predicted=_predicted_section(result.prediction),
        predicted_of_candidate=_predicted_section(prediction),
        candidate=None if best is None else _candidate_section(target, best),
        expected=_expected_section(result.winner),
        measured=_measured_section(result),
        ablation={part: asdict(gain) for part, gain in result.gains.items()},
        search=_search_section(config, prompts, cost, result),
        costs=_costs_section(result.costs) if result.costs else None,
        environment=_environment_section(target, result),
    )


def baselines(
    winner: Validated, results: Sequence[Validated], trials: Sequence[Trial]
) -> tuple[BaselineResult, ...]:
    """The methods that did not win, each with the best of its candidates.

    Args:
        results: the winner's among them, best first.
        trials: the candidates that `index` counts.
    """

    def name(result: Validated) -> str:
        takes_config = METHODS[result.method].takes_draft_config
        options = trials[result.index].draft_config.options if takes_config else {}
        return str(MethodSpec(result.method, options))

    others = {name(r): r for r in reversed(results) if name(r) != name(winner)}
    return tuple(
        BaselineResult(n, r.speedup, _vs_winner(r, winner), _predicted(r))
        for n, r in others.items()
    )


def _predicted(result: Validated) -> float | None:
    return None if result.prediction is None else result.prediction.median_speedup


def _vs_winner(other: Validated, winner: Validated) -> Literal["ahead", "tied", "behind"]:
    if other.mean_log_speedup > winner.mean_log_speedup:
        return "ahead"
    return "tied" if other.tied else "behind"


def _expected_section(winner: Validated | None) -> dict[str, Any] | None:
    """What is expected end to end on other text."""
    if winner is None:
        return None
    interval = winner.expected.interval
    return {
        "speedup": interval.median,
        "low": interval.low,
        "high": interval.high,
        "first_text": winner.expected_first_text,
    }


def _predicted_section(prediction: Prediction | None) -> dict[str, Any] | None:
    if prediction is None:
        return None
    return {
        "speedup": prediction.median_speedup,
        "acceptance_rate": prediction.acceptance_rate,
        "matchness": prediction.matchness,
    }


def _candidate_section(target: Target, trial: Trial) -> dict[str, Any]:
    prediction = trial.prediction
    assert prediction is not None, "see `best_mask`"
    return {
        "attention": trial.mask.attention,
        "mlp": trial.mask.mlp,
        "gamma": prediction.gamma,
        "tau": prediction.tau,
        **draft_config_keys(trial.draft_config, target.tokenizer_fingerprint),
        "predicted": _predicted_section(prediction),
    }


def best_mask(trials: Iterable[Trial]) -> Trial | None:
    """The first trial that skips anything and has a prediction.

    Args:
        trials: best first.
    """
    return next((each for each in trials if each.mask.skipped and each.prediction), None)


def _context_section(bucket: ContextBucket) -> dict[str, Any]:
    mask, prediction = bucket.trial.mask, bucket.trial.prediction
    assert prediction is not None
    return {
        "min_context": bucket.min_context,
        "mask": {"attention": mask.attention, "mlp": mask.mlp},
        "drafting": {"gamma": prediction.gamma, "tau": prediction.tau},
        "predicted": _predicted_section(prediction),
    }


def _measured_section(result: SearchResult) -> dict[str, Any] | None:
    if result.winner is None:
        return None
    return {
        **result.winner.to_json(),
        "baselines": {each.method: each.speedup.to_json() for each in result.baselines},
        "vs_winner": {each.method: each.vs_winner for each in result.baselines},
        "baselines_predicted": {
            each.method: each.predicted for each in result.baselines if each.predicted is not None
        },
    }


def _search_section(
    config: SearchConfig, prompts: UsedPrompts, cost: SearchCost, result: SearchResult
) -> dict[str, Any]:
    even = cost.break_even_tokens(result.winner)
    return {
        "sampler": config.sampler,
        "objective": config.objective,
        "trials": cost.trials,
        "seconds": cost.seconds,
        "seed": config.seed,
        "prompts": prompts.digest,
        "prompts_by_category": dict(prompts.categories) or None,
        "chat_template": prompts.chat_template,
        "breaks_even_after_tokens": None if result.off_reason else even,
        "seconds_by_phase": dict(cost.seconds_by_phase) or None,
    }


def _costs_section(costs: Costs) -> dict[str, Any]:
    return {**asdict(costs), "verify_tree": dict(costs.verify_tree)}


def _environment_section(target: Target, result: SearchResult) -> dict[str, Any]:
    """The environment, with copies for drafts only as far as the profile's drafts read them."""
    record = environment_of(target)
    read = draft_weight_bytes(target, result.masks, result.draft_config)
    return record | {"memory": record["memory"] | read._asdict()}
