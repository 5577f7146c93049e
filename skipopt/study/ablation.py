"""What each part of a draft gains alone: the mask, the weight bits, the vocabulary, the
window, the experts.

Besides, all parts together, these with copies (`cascade`), and copies alone (`suffix`).
Figures are measured where validation has decoded the combination, else predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.methods import METHODS, MethodSpec
from skipopt.study.config import LAYER_SKIP
from skipopt.study.method_predictions import CASCADE, SUFFIX, MethodPredictions

if TYPE_CHECKING:
    from skipopt.cost_model.prediction import Prediction
    from skipopt.scoring import ScoredText
    from skipopt.storage.base import Trial
    from skipopt.study.draft_config_search import Candidate, DraftConfigSearch
    from skipopt.study.validation import Validated

Drafts = tuple[SkipMask, DraftConfig]
Part = Literal["mask", "quant", "vocab", "window", "experts", "all", "all_with_copies", "copies"]


@dataclass(frozen=True, slots=True)
class Gain:
    """The speedup of decoding alone with one part, and where it is from."""

    speedup: float
    source: Literal["measured", "predicted"]


@dataclass(slots=True, eq=False)
class Ablation:
    """What is known of the parts.

    Attributes:
        results: of the validation.
        predictions: with the candidates that `index` of a result counts.
        known: further trials.
        search: measures the costs of parts that were not tried alone, while there is time.
        texts: on which these are scored.
    """

    results: Sequence[Validated]
    predictions: MethodPredictions
    known: Sequence[Candidate]
    search: DraftConfigSearch
    texts: Sequence[ScoredText]

    def gains(self, index: int) -> dict[Part, Gain]:
        """The gain of each part of a candidate's drafts, and of copies."""
        trial = self.predictions.candidates[index].trial
        parts = dict(_parts(trial.mask, trial.draft_config))
        found: dict[Part, Gain | None] = {}
        for name, part in parts.items():
            found[name] = self._drafts(*part) if len(parts) > 1 else self._by(LAYER_SKIP, index)
        found["all"] = self._by(LAYER_SKIP, index)
        found["all_with_copies"] = self._by(CASCADE, index)
        found["copies"] = self._by(SUFFIX)
        return {name: gain for name, gain in found.items() if gain is not None}

    def _by(self, method: str, index: int | None = None) -> Gain | None:
        """The gain of a method with a candidate's drafts (any, where it has none)."""
        for each in self.results:
            if each.method == method and index in (None, each.index):
                return Gain(each.speedup.median, "measured")
        return _predicted(self.predictions(MethodSpec(method), index or 0))

    def _drafts(self, mask: SkipMask, draft_config: DraftConfig) -> Gain | None:
        """The gain of these drafts alone; None where they are unknown and there is no time."""
        candidates = self.predictions.candidates
        for index, each in enumerate(candidates):
            if _matches(each.trial, mask, draft_config):
                return self._by(LAYER_SKIP, index)
        for each in self.known:
            if _matches(each.trial, mask, draft_config):
                return _predicted(each.trial.prediction)
        return _predicted(self._try(mask, draft_config))

    def _try(self, mask: SkipMask, draft_config: DraftConfig) -> Prediction | None:
        """The prediction of these drafts, after measuring their costs."""
        if not self.search.fits(self.texts):
            return None
        found = self.search.try_one(mask, draft_config, self.texts, self.search.time)
        return found.trial.prediction


def described(results: Sequence[Validated], winner: Validated) -> int:
    """The candidate whose parts are told: the winner's, or the best where it drafts without."""
    if METHODS[winner.method].takes_draft_config:
        return winner.index
    return next((each.index for each in results if each.method == LAYER_SKIP), winner.index)


def _parts(mask: SkipMask, draft_config: DraftConfig) -> Iterator[tuple[Part, Drafts]]:
    """Each part of a draft alone, by name."""
    empty = SkipMask.empty(mask.layers)
    if mask.skipped:
        yield "mask", (mask, UNCHANGED)
    if draft_config.weights is not None:
        bits = DraftConfig.of(
            draft_config.quant, None, draft_config.head, draft_config.int8_layers
        )
        yield "quant", (empty, bits)
    if draft_config.vocab_size is not None:
        size, vocabulary = draft_config.vocab_size, draft_config.vocabulary
        yield "vocab", (empty, DraftConfig(vocab_size=size, vocabulary=vocabulary))
    if (window := draft_config.attention_window) is not None:
        yield "window", (empty, DraftConfig(attention_window=window))
    if (experts := draft_config.experts) is not None:
        yield "experts", (empty, DraftConfig(experts=experts))


def _matches(trial: Trial, mask: SkipMask, draft_config: DraftConfig) -> bool:
    return (trial.mask, trial.draft_config) == (mask, draft_config)


def _predicted(prediction: Prediction | None) -> Gain | None:
    return None if prediction is None else Gain(prediction.median_speedup, "predicted")
