"""Compares texts with those of plain decoding: exact, within the numerical margin, or failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.models.target import Target
    from skipopt.sampling import SamplingOptions

LosslessVerdict = Literal["exact", "within-margin", "failed"]

BLOCK = 8  # tokens per forward, compared with one token per forward to measure the margin
MARGIN_TOKENS = 64  # first tokens of a text, on which the margin is measured
MIN_ROUNDING_STEPS, MAX_ROUNDING_STEPS = 1, 16  # bounds of the margin


class ComparedText(NamedTuple):
    """Token ids of a prompt, of its plain continuation, and of the continuation to check."""

    prompt: tuple[int, ...]
    reference: tuple[int, ...]
    emitted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LosslessReport:
    """Number of texts by verdict.

    `margin` is the largest numerical margin of the texts that were not exact; None if none was
    measured.
    """

    exact: int
    within_margin: int
    failed: int
    margin: float | None = None

    @property
    def verdict(self) -> LosslessVerdict:
        if self.failed:
            return "failed"
        return "within-margin" if self.within_margin else "exact"

    @property
    def total(self) -> int:
        return self.exact + self.within_margin + self.failed

    @classmethod
    def sum_of(cls, reports: Iterable[LosslessReport]) -> LosslessReport:
        """The report of all texts of these reports together."""
        every = list(reports)
        return cls(
            exact=sum(each.exact for each in every),
            within_margin=sum(each.within_margin for each in every),
            failed=sum(each.failed for each in every),
            margin=max((each.margin for each in every if each.margin is not None), default=None),
        )

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, **asdict(self)}


def check_texts(
    target: Target, texts: Iterable[ComparedText], options: SamplingOptions | None = None
) -> LosslessReport:
    """Compare each text with its reference; repeats of the same one are counted once.

    A text is exact if it has the same tokens. It is within the margin if it has the same length
    and the score of each of its tokens is below the best score by at most `measured_margin`, where
    scores are computed token by token over the text itself. Any other text has failed.

    Args:
        options: sampling options of the texts; with the seed they give the noise at each
            position. Default: greedy.
    """
    from skipopt.sampling import SamplingOptions

    options = options or SamplingOptions()
    return LosslessReport.sum_of(_check(target, text, options) for text in dict.fromkeys(texts))


def _check(target: Target, text: ComparedText, options: SamplingOptions) -> LosslessReport:
    if text.emitted == text.reference:
        return LosslessReport(1, 0, 0)
    if not _has_same_length(target, text):
        return LosslessReport(0, 0, 1)
    margin = measured_margin(target, text.prompt, text.emitted[:MARGIN_TOKENS])
    within = logit_gap(target, text.prompt, text.emitted, options) <= margin
    return LosslessReport(0, int(within), int(not within), margin)


def _has_same_length(target: Target, text: ComparedText) -> bool:
    """Whether the text has as many tokens as its reference, or one of them ended with EOS."""
    has_eos = bool(text.emitted) and text.emitted[-1] in target.eos_ids
    has_eos = has_eos or (bool(text.reference) and text.reference[-1] in target.eos_ids)
    return bool(text.emitted) and (has_eos or len(text.emitted) == len(text.reference))


def logit_gap(
    target: Target, prompt: Sequence[int], tokens: Sequence[int], options: SamplingOptions
) -> float:
    """The largest difference, over positions, between the best score and the token's score."""
    rows = teacher_forced(target, prompt, tokens, 1)
    scores = _scores(target, prompt, tokens, options, rows)
    return max(float(s.max() - s[0, token]) for s, token in zip(scores, tokens, strict=True))


def _scores(
    target: Target,
    prompt: Sequence[int],
    tokens: Sequence[int],
    options: SamplingOptions,
    rows: Iterable[Tensor],
) -> Iterator[Tensor]:
    """The scores that each token was chosen by, from the logits before it.  # (1, V) each"""
    from skipopt.logits_processing import LogitsProcessing
    from skipopt.sampling import TokenSampler

    sampler = TokenSampler(options, target.device, coupled=True)
    first = options.processors(len(prompt), target.eos_ids, target.device)
    processing, text = LogitsProcessing(first), list(prompt)
    for row, token in zip(rows, tokens, strict=True):
        processed = processing.target_row(row[0], text, ())[None] if processing else row
        yield sampler.scores(processed, [len(text)])
        text.append(token)


def measured_margin(target: Target, prompt: Sequence[int], tokens: Sequence[int]) -> float:
    """The largest difference expected between two correct computations of one logit: 2·max|Δ|.

    Δ is the difference between logits computed token by token and in blocks of 8 tokens, with
    this model on this text. Blocks are computed on the target's runtime and by the model's
    modules: the native kernels compute a row alike in every block, but not as other kernels do,
    such as those of the prefill and of transformers' `generate`.
    """
    import torch

    one_by_one, *blocks = (
        torch.cat(list(teacher_forced(target, prompt, tokens, size, captured)))
        for size, captured in ((1, True), (BLOCK, True), (BLOCK, False))
    )
    measured = 2 * max(float((one_by_one - each).abs().max()) for each in blocks)
    return bounded_margin(measured, float(one_by_one.abs().max()), target.dtype)


def bounded_margin(measured: float, largest_logit: float, dtype: str) -> float:
    """The measured margin, limited to 1 to 16 rounding steps of the largest logit.

    The lower bound is needed where both computations agree bit by bit, although another runtime
    may differ in the last bit. The upper bound keeps a runtime that computes blocks incorrectly
    from being excused by the margin that its own error produces.
    """
    import torch

    step = torch.finfo(getattr(torch, dtype)).eps * largest_logit
    return min(max(measured, MIN_ROUNDING_STEPS * step), MAX_ROUNDING_STEPS * step)


def teacher_forced(
    target: Target,
    prompt: Sequence[int],
    continuation: Sequence[int],
    block: int,
    captured: bool = True,
) -> Iterator[Tensor]:
    """The logits that predict each token of `continuation`, computed `block` tokens per forward.

    Args:
        captured: False runs the model's modules, on any runtime.

    Yields:
        float32 logits of one forward.  # (block or fewer, V)
    """
    from skipopt.runtime.engine import Engine

    tokens = [*prompt, *continuation]
    engine = Engine(target, len(tokens), captured)
    engine.prefill(list(prompt[:-1]))
    inputs = tokens[len(prompt) - 1 : -1]
    for start in range(0, len(inputs), block):
        yield engine.step(inputs[start : start + block]).float()
