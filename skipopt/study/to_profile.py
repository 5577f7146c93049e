"""What a search came to, as a profile. Knows nothing of how it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from skipopt.bench.provenance import environment_of
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.methods import MethodSpec
from skipopt.profile import Profile
from skipopt.runtime.draft_mode import quantized_bytes

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.cost_model.prediction import Prediction
    from skipopt.models.target import Target
    from skipopt.storage.base import Trial
    from skipopt.study.config import SearchConfig
    from skipopt.study.validation import Validated


@dataclass(frozen=True, slots=True)
class SearchCost:
    """What a search has cost so far."""

    trials: int
    seconds: float

    def break_even(self, confirmed: Validated | None) -> int | None:
        """Tokens after which the search has paid for itself; None = never."""
        if confirmed is None or confirmed.tokens_per_second <= confirmed.plain_tokens_per_second:
            return None
        saved = 1 / confirmed.plain_tokens_per_second - 1 / confirmed.tokens_per_second
        return round(self.seconds / saved)


def profile_of(
    target: Target,
    config: SearchConfig,
    prompts: str,
    spent: SearchCost,
    trial: Trial,
    confirmed: Validated | None = None,
    reason: str | None = None,
    others: dict[str, dict[str, Any]] | None = None,
    costs: Costs | None = None,
    contexts: Sequence[dict[str, Any]] = (),
) -> Profile:
    """A trial as a profile.

    Args:
        prompts: digest of the prompts.
        confirmed: what real decoding said, by which method.
        reason: why it is off.
        others: how other methods did in the same runs, as `baseline_results` tells it.
        prices: what was predicted by.
        contexts: masks for longer texts.
    """
    prediction = trial.prediction
    method = confirmed.method if confirmed else "layer-skip"
    draft_config = (
        trial.draft_config if method == "layer-skip" else UNCHANGED
    )  # no other knows them
    later = [SkipMask.of(target.depth, **bucket["mask"]) for bucket in contexts]
    return Profile.build(
        target,
        trial.mask,
        method=method,
        gamma=prediction.gamma if prediction else 1,
        tau=prediction.tau if prediction else 0.0,
        draft_config=draft_config,
        enabled=reason is None,
        reason=reason,
        contexts=contexts,
        # Traces foretell drafts under the mask, and nothing of other methods.
        predicted=predicted_section(prediction) if prediction and method == "layer-skip" else None,
        measured={**confirmed.to_facts(), **(others or {})} if confirmed else None,
        search={
            "sampler": config.sampler,
            "objective": config.objective,
            "trials": spent.trials,
            "seconds": spent.seconds,
            "seed": config.seed,
            "prompts": prompts,
            "breaks_even_after_tokens": spent.break_even(confirmed),
        },
        costs=_priced(costs) if costs else None,
        environment=_environment(target, [trial.mask, *later], draft_config),
    )


def _environment(
    target: Target, masks: Sequence[SkipMask], draft_config: DraftConfig
) -> dict[str, Any]:
    """Where it was measured, without the copies of weights that only other trials read."""
    record = environment_of(target)
    quantized = quantized_bytes(target, masks, draft_config.weight_bits)
    return record | {"memory": record["memory"] | {"quantized_weights": quantized}}


def _priced(costs: Costs) -> dict[str, Any]:
    return {**asdict(costs), "verify_tree": dict(costs.verify_tree)}


def predicted_section(prediction: Prediction) -> dict[str, Any]:
    """A profile's `predicted`: of the drafts of `layer-skip` under the mask."""
    return {
        "speedup": prediction.median_speedup,
        "acceptance_rate": prediction.acceptance_rate,
        "matchness": prediction.matchness,
    }


def baseline_results(
    winner: Validated, confirmed: Sequence[Validated], candidates: Sequence[Trial]
) -> dict[str, dict[str, Any]]:
    """`baselines`, the speedups of the methods that did not win, and `vs_winner`.

    Of two masks with one method, the better one's.
    """

    def name(c: Validated) -> str:
        options = candidates[c.index].draft_config.options
        return str(MethodSpec(c.method, options if c.method == "layer-skip" else {}))

    rivals = {name(c): c for c in reversed(confirmed) if name(c) != name(winner)}
    return {
        "baselines": {method: c.speedup.to_json() for method, c in rivals.items()},
        "vs_winner": {method: _standing(c, winner) for method, c in rivals.items()},
    }


def _standing(rival: Validated, winner: Validated) -> str:
    if rival.gain > winner.gain:
        return "ahead"
    return "tied" if rival.tied else "behind"
