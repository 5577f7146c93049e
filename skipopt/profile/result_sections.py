"""The sections of a profile that hold speedups: expected, measured, and of parts alone."""

from __future__ import annotations

from typing import Literal

from skipopt.profile.sections import Positive, Section, Share, Text


class IntervalSection(Section):
    """A median of paired ratios with its 95 % bootstrap interval."""

    median: Positive
    low: Positive
    high: Positive


class ExpectedSection(Section):
    """The end-to-end speedup that is expected on other text, from prediction and measurement.

    Attributes:
        speedup: of whole texts, their prefill included; lower than what was measured, by what is
            expected to have been luck.
        low, high: its 95 % interval.
        first_text: of the first text of a process, for which nothing was captured or copied
            before; null if not measured.
    """

    speedup: Positive
    low: Positive
    high: Positive
    first_text: Positive | None = None


class MeasuredSection(Section):
    """Results of decoding the validation prompts.

    Attributes:
        speedup: of decoding alone.
        end_to_end: of whole texts, their prefill included; null if not measured.
        first_text: the same of texts for which nothing was captured or copied before; null if not
            measured.
        mean_acceptance_length: tokens per target forward, bonus token included.
        baselines: speedups of the other methods in the same runs.
        vs_winner: of each of them: `ahead` of the chosen method on these prompts (but not
            losslessly, or not expected to be so on other text), `tied` (not significantly slower)
            or `behind`.
        baselines_predicted: their predicted speedups, of those that had one.
    """

    speedup: IntervalSection
    end_to_end: IntervalSection | None = None
    first_text: IntervalSection | None = None
    acceptance_rate: Share | None
    mean_acceptance_length: Positive
    plain_tokens_per_second: Positive
    tokens_per_second: Positive
    lossless: Literal["exact", "within-margin", "failed"]
    baselines: dict[Text, IntervalSection] | None = None
    vs_winner: dict[Text, Literal["ahead", "tied", "behind"]] | None = None
    baselines_predicted: dict[Text, Positive] | None = None


class GainSection(Section):
    """The speedup of decoding alone with a part of the drafts, and where it is from."""

    speedup: Positive
    source: Literal["measured", "predicted"]


class AblationSection(Section):
    """What each part of the drafts gains alone; null for what they do not have, or is not known.

    Attributes:
        mask, quant, vocab, window, experts: each of these alone; `quant` with `head` and
            `int8_layers`.
        all: everything together, by `layer-skip`.
        all_with_copies: by `cascade`.
        copies: by `suffix`.
    """

    mask: GainSection | None = None
    quant: GainSection | None = None
    vocab: GainSection | None = None
    window: GainSection | None = None
    experts: GainSection | None = None
    all: GainSection | None = None
    all_with_copies: GainSection | None = None
    copies: GainSection | None = None

    @property
    def gains(self) -> dict[str, GainSection]:
        """What is known, by name."""
        return {name: gain for name in type(self).model_fields if (gain := getattr(self, name))}
