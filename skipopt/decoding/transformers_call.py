"""What transformers' `generate` was called with, and the texts that it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from skipopt.decoding.prompt_rows import PromptRow
from skipopt.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.decoding.loop import RowRecorder
    from skipopt.sampling import SamplingOptions


@dataclass(slots=True)
class RowText:
    """A prompt with padding and its new tokens.  # ids (1, T + n)"""

    ids: Tensor
    recorder: RowRecorder | None
    new_tokens: int = 0

    def append(self, token: int) -> None:
        import torch

        self.ids = torch.cat([self.ids, self.ids.new_tensor([[token]])], 1)
        self.new_tokens += 1

    def scores(self) -> tuple[Tensor, ...]:
        """Of each new token, after the logits processors.  # (1, V) each"""
        return self._recorded([] if self.recorder is None else self.recorder.scores)

    def logits(self) -> tuple[Tensor, ...]:
        """Of each new token, as the model returned them.  # (1, V) each"""
        return self._recorded([] if self.recorder is None else self.recorder.logits)

    def _recorded(self, rows: Sequence[Tensor]) -> tuple[Tensor, ...]:
        # The last round may have gone on after the text was stopped.
        return tuple(row[None] for row in rows[: self.new_tokens])


@dataclass(frozen=True, slots=True)
class Call:
    """What `generate` was called with."""

    input_ids: Tensor
    processors: Sequence[Any]
    criteria: Any
    config: Any
    wants_scores: bool = field(init=False)
    wants_logits: bool = field(init=False)

    def __post_init__(self) -> None:
        wanted = bool(self.config.return_dict_in_generate)
        object.__setattr__(self, "wants_scores", wanted and bool(self.config.output_scores))
        object.__setattr__(self, "wants_logits", wanted and bool(self.config.output_logits))

    def check(self, rows: Sequence[PromptRow], streamer: Any) -> None:
        """Refuse what is for one sequence only.

        Raises:
            UsageError: a streamer or scores for several sequences, or no token to fill up with.
        """
        if len(rows) == 1:
            return
        asked = {
            "streamer": streamer is not None,
            "output_scores": self.wants_scores,
            "output_logits": self.wants_logits,
        }
        if given := [name for name, used in asked.items() if used]:
            raise UsageError(
                f"{given[0]} is for one sequence at a time, and there are {len(rows)}",
                hint="loop over prompts",
            )
        if self._pad_id() is None and len(self.criteria or ()) > 1:
            raise UsageError(
                "pad_token_id is needed where sequences may differ in length",
                hint="give generate a pad_token_id",
            )

    @property
    def max_new_tokens(self) -> int:
        longest = getattr(self.criteria, "max_length", None) or self.config.max_length
        return int(longest) - int(self.input_ids.shape[1])

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a text. A criterion of the caller may have replaced the config's."""
        if self.criteria is not None:
            given = (getattr(each, "eos_token_id", None) for each in self.criteria)
            return frozenset(id for each in given if each is not None for id in _ids(each))
        ids = self.config.eos_token_id
        return frozenset(() if ids is None else _ids(ids))

    def sampling(self) -> SamplingOptions:
        """Greedy, or sampling with a seed from torch's generator.

        Temperature and its kind are among the processors.
        """
        import torch

        from skipopt.sampling import SamplingOptions

        if not self.config.do_sample:
            return SamplingOptions()
        return SamplingOptions(temperature=1.0, seed=int(torch.randint(1 << 62, ())))

    def new_recorder(self) -> RowRecorder | None:
        from skipopt.decoding.loop import RowRecorder

        return RowRecorder() if self.wants_scores or self.wants_logits else None

    def is_stopped(self, text: RowText) -> bool:
        """Whether a stopping criterion holds."""
        if not self.criteria:
            return False
        scores = text.scores() if self.wants_scores else None
        return bool(self.criteria(text.ids, scores).all())

    def output(self, texts: Sequence[RowText]) -> Any:
        """The ids of all rows, or the output object if `return_dict_in_generate` is set."""
        ids = self._filled_up([text.ids for text in texts])
        if not self.config.return_dict_in_generate:
            return ids
        from transformers.generation.utils import GenerateDecoderOnlyOutput

        return GenerateDecoderOnlyOutput(
            sequences=ids,  # type: ignore[arg-type]
            scores=texts[0].scores() if self.wants_scores else None,  # type: ignore[arg-type]
            logits=texts[0].logits() if self.wants_logits else None,  # type: ignore[arg-type]
        )

    def _filled_up(self, rows: Sequence[Tensor]) -> Tensor:
        """All rows with padding after the shorter ones.  # (1, …) each -> (B, T + n)"""
        import torch
        from torch.nn.functional import pad

        longest = max(row.shape[1] for row in rows)
        pad_id = self._pad_id() or 0
        return torch.cat([pad(row, (0, longest - row.shape[1]), value=pad_id) for row in rows])

    def _pad_id(self) -> int | None:
        found = getattr(self.config, "_pad_token_tensor", None)
        found = self.config.pad_token_id if found is None else found
        return None if found is None else int(found)


def _ids(value: Any) -> list[int]:
    """Token ids given as a number, a list or a tensor."""
    given = value.tolist() if hasattr(value, "tolist") else value
    return [int(each) for each in given] if isinstance(given, list | tuple | set) else [int(given)]
