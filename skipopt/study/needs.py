"""What the phases of a search need, in seconds, estimated from the first steps that it timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.measurement.cost_measurement import MAX_CYCLES
from skipopt.study.calibration import MIN_NEW_TOKENS, MIN_VALIDATION_PROMPTS
from skipopt.study.pruner import rows_per_mask
from skipopt.study.time_plan import PLAIN_STEPS_PER_CYCLE, Need, Pace, Phase

if TYPE_CHECKING:
    from skipopt.study.config import SearchConfig

Lengths = Sequence[int]
ENTRANTS = 3  # that decode the validation prompts, besides plain decoding
# A row of a trial, in tokens of a prompt: each has logits, and trials have few rows at a time.
SCORED_ROW = 2.0
FULL_DRAFT_TEXTS = 4  # on which the profile's prediction is made


@dataclass(frozen=True, slots=True)
class Estimator:
    """Estimates the needs of a search.

    Attributes:
        to_score, to_validate: tokens of the prompts.
        sublayers: that may be skipped.
    """

    config: SearchConfig
    pace: Pace
    to_score: Lengths
    to_validate: Lengths
    sublayers: int

    def needs(self) -> dict[Phase, Need]:
        least_texts, least_validation = (
            sum(self.pace.text(length, MIN_NEW_TOKENS) for length in part[:MIN_VALIDATION_PROMPTS])
            for part in (self.to_score, self.to_validate)
        )
        # Made, decoded plainly and by one finalist, and both warm up.
        least_validation *= 4
        cycle = PLAIN_STEPS_PER_CYCLE * self.pace.token
        least_mask = self.rows(self.to_score[:MIN_VALIDATION_PROMPTS], MIN_NEW_TOKENS)
        alone = len(self.config.draft_configs) + len(self.config.vocab_sizes(1 << 30))
        # The least: costs of one kind of draft, and two texts that one finalist decodes.
        least_costs = 2 * cycle + (least_mask if alone else 0.0)
        return {
            "calibrate": Need(least_texts, max(least_texts, self.texts(self.to_score)), 1.0),
            "costs": Need(least_costs, max(least_costs, self._costs(alone, cycle)), 3.0),
            "search": self._search(alone, least_mask),
            "validate": Need(least_validation, max(least_validation, self._validation()), 3.0),
        }

    def texts(self, prompts: Lengths) -> float:
        """Seconds to continue all of these prompts."""
        return sum(self.pace.text(length, self.config.calibration_tokens) for length in prompts)

    def rows(self, prompts: Lengths, tokens: int, masks: int = 1, steps: int = 1) -> float:
        """Seconds to score masks on the texts of these prompts."""
        rows = sum(length + tokens + masks * steps * tokens for length in prompts)
        return self.pace.prompt_token * rows

    def _costs(self, alone: int, cycle: float) -> float:
        config, tokens = self.config, self.config.calibration_tokens
        most = MAX_CYCLES * cycle
        one = max(min(config.draft_config_cost_seconds, most), 2 * cycle)
        one += self.rows(self.to_score, tokens)
        base = max(min(config.cost_seconds, most), 5 * cycle) if config.searches_masks else 0.0
        return base + alone * one

    def _search(self, alone: int, least_mask: float) -> Need:
        """Trials until the patience is over; one mask at least, where nothing else is tried."""
        config = self.config
        if not config.searches_masks:
            return Need(0.0, 0.0)
        least = 0.0 if alone else 2 * least_mask
        quick, tokens = self.to_score[: config.quick_texts], config.calibration_tokens
        trials = config.patience * self.sublayers * rows_per_mask(config, [tokens] * len(quick))
        # The quick texts with the mask that others are compared with, and the best masks again.
        start = self.rows(quick, tokens)
        again = self.rows(self.to_score, tokens, masks=config.num_finalists)
        full = self.rows(self.to_score[:FULL_DRAFT_TEXTS], tokens, 2, config.max_gamma)
        most = start + SCORED_ROW * self.pace.prompt_token * trials + again + full
        return Need(least, max(least, most), 4.0)

    def _validation(self) -> float:
        """Texts, finalists, and the prediction on texts of full drafts; longer contexts."""
        config, tokens = self.config, self.config.calibration_tokens
        decoded = (2 + ENTRANTS) * self.texts(self.to_validate)
        scored = self.rows(self.to_score[:FULL_DRAFT_TEXTS], tokens, steps=config.max_gamma)
        contexts = sum(self.context(length) for length in config.context_lengths)
        return decoded + scored + contexts

    def context(self, length: int) -> float:
        """Seconds to find a mask for texts from this length on."""
        config = self.config
        prompts = [length] * min(config.context_prompts, len(self.to_score))
        masks = config.context_neighbors + config.num_candidates
        texts = sum(self.pace.text(each, config.context_tokens) for each in prompts)
        full = self.rows(prompts, config.context_tokens, config.context_full_draft, 8)
        scored = self.rows(prompts, config.context_tokens, masks)
        return texts + scored + full + config.context_cost_seconds
