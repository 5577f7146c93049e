"""The prompts of a batch, without their padding, and the logits processors of each."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from skipopt.errors import UsageError
from skipopt.logits_processing import SCORES_ONLY, AfterPadding, Processor

if TYPE_CHECKING:
    from torch import Tensor

HINT = "mark padding with 0 on one side of each prompt, or leave attention_mask out"
# They hold the prompts of the whole batch.
OF_ONE_SEQUENCE = (
    "EncoderRepetitionPenaltyLogitsProcessor",
    "EncoderNoRepeatNGramLogitsProcessor",
)


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One prompt of a batch.

    Attributes:
        number: of the row.
        tokens: of the prompt, without padding.
        padding: tokens on either side of it.
    """

    number: int
    tokens: tuple[int, ...]
    padding: tuple[int, ...]

    def processors(self, whole: Iterable[Any], rows: int) -> list[Processor]:
        """The processors of a batch of so many rows, for this one alone.

        In a batch `generate` counts padding as part of the prompt, so these processors see it,
        always on the left.

        Raises:
            UsageError: a processor that cannot be used for one row of several.
        """
        return [self._processor(each, rows) for each in whole]

    def _processor(self, processor: Any, rows: int) -> Processor:
        name = type(processor).__name__
        if rows > 1 and name in OF_ONE_SEQUENCE:
            raise UsageError(
                f"the logits processor {name} is for one sequence at a time, and there are {rows}",
                hint="loop over prompts",
            )
        if name == "RepetitionPenaltyLogitsProcessor":
            processor = self._after_prompt_padding(processor)
        if name == "PrefixConstrainedLogitsProcessor" and self.number:
            allowed = processor._prefix_allowed_tokens_fn
            processor = copy.copy(processor)
            processor._prefix_allowed_tokens_fn = partial(_of_row, self.number, allowed)
        if name == "SynthIDTextWatermarkLogitsProcessor":
            processor = copy.copy(processor)  # it remembers the tokens of one text
        return (
            AfterPadding(processor, self.padding)
            if self.padding and name not in SCORES_ONLY
            else processor
        )

    def _after_prompt_padding(self, processor: Any) -> Any:
        ignored = processor.prompt_ignore_length
        if ignored is None or isinstance(ignored, int):
            return processor
        processor = copy.copy(processor)
        processor.prompt_ignore_length = max(int(ignored[self.number]), len(self.padding))
        return processor


def _of_row(number: int, allowed: Any, batch: int, ids: Any) -> Any:
    return allowed(number, ids)


def prompt_rows(
    input_ids: Tensor, mask: Tensor | None, positions: Tensor | None
) -> list[PromptRow]:
    """The prompts of a batch.

    Args:
        input_ids: # (B, T)
        mask: 1 for tokens, 0 for padding; None: no padding.  # (B, T)
        positions: of the tokens; None: as they are by default. Models that read images have
            several for each, the same for text.  # (B or 1, T) or (k, B or 1, T)

    Raises:
        UsageError: padding inside a prompt, a prompt without tokens, or positions of another text.
    """
    import torch

    attended = torch.ones_like(input_ids) if mask is None else mask
    if attended.shape != input_ids.shape or not bool(((attended == 0) | (attended == 1)).all()):
        raise UsageError("attention_mask must have a 0 or 1 for each token of the prompt", HINT)
    _check_positions(attended, positions)
    rows: list[PromptRow] = []
    for number, (ids, kept) in enumerate(zip(input_ids, attended.bool(), strict=True)):
        places = kept.nonzero()[:, 0].tolist()
        if not places:
            raise UsageError(f"attention_mask leaves nothing of prompt {number + 1}", HINT)
        if places[-1] - places[0] + 1 != len(places):
            raise UsageError("attention_mask has holes inside a prompt: not supported", HINT)
        rows.append(PromptRow(number, tuple(ids[kept].tolist()), tuple(ids[~kept].tolist())))
    return rows


def _check_positions(attended: Tensor, positions: Tensor | None) -> None:
    if positions is None:
        return
    expected = (attended.long().cumsum(-1) - 1).clamp(min=0)
    fits = positions.shape[-1] == expected.shape[-1] and positions.ndim in (2, 3)
    if not fits or bool(((positions != expected) & attended.bool()).any()):
        raise UsageError(
            "position_ids are not supported: only the default 0, 1, 2, … of each prompt",
            hint="leave position_ids out, or generate without custom_generate",
        )
