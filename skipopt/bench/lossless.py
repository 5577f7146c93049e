"""Is a text the one that plain decoding gives? Exactly, within rounding, or not.

Knows nothing of who wrote the text or of time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.models.target import Target
    from skipopt.sampling import SamplingOptions, TokenSampler

Outcome = Literal["exact", "within-margin", "failed"]

BLOCK = 8
POSITIONS = 64
LEAST_STEPS = 1
MOST_STEPS = 16


class ComparedText(NamedTuple):
    """A prompt, plain decoding's continuation of it, and the one to be judged."""

    prompt: tuple[int, ...]
    reference: tuple[int, ...]
    emitted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LosslessReport:
    """Counts of texts by outcome.

    `margin` is the largest difference of logits that rounding explained among the texts that
    had to be looked at; None where every text was exact.
    """

    exact: int
    within_margin: int
    failed: int
    margin: float | None = None

    @property
    def verdict(self) -> Outcome:
        if self.failed:
            return "failed"
        return "within-margin" if self.within_margin else "exact"

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, **asdict(self)}


def judge_texts(
    target: Target, texts: Iterable[ComparedText], options: SamplingOptions | None = None
) -> LosslessReport:
    """Judge each text; repeats of the same one are counted once.

    Exact: the same tokens. Within margin: every token is the target's choice, or falls short of
    it by no more than rounding explains (`measured_margin`), all by logits computed token by
    token over the text itself. Anything else failed, a text of another length included.

    Args:
        options: how the texts were chosen, with the noise of each position; greedy by default.
    """
    from skipopt.sampling import SamplingOptions, TokenSampler

    sampler = TokenSampler(options or SamplingOptions(), target.device, coupled=True)
    counts: dict[Outcome, int] = {"exact": 0, "within-margin": 0, "failed": 0}
    margins: list[float] = []
    for text in dict.fromkeys(texts):
        outcome, margin = _judge(target, text, sampler)
        counts[outcome] += 1
        margins += [] if margin is None else [margin]
    return LosslessReport(
        counts["exact"], counts["within-margin"], counts["failed"], max(margins, default=None)
    )


def _judge(
    target: Target, text: ComparedText, sampler: TokenSampler
) -> tuple[Outcome, float | None]:
    if text.emitted == text.reference:
        return "exact", None
    if not _same_extent(target, text):
        return "failed", None
    margin = measured_margin(target, text.prompt, text.emitted[:POSITIONS])
    fits = shortfall(target, text.prompt, text.emitted, sampler) <= margin
    return ("within-margin" if fits else "failed"), margin


def _same_extent(target: Target, text: ComparedText) -> bool:
    """As many tokens as the reference, unless the text ended itself at another place."""
    ended = bool(text.emitted) and text.emitted[-1] in target.eos_ids
    ended = ended or (bool(text.reference) and text.reference[-1] in target.eos_ids)
    return bool(text.emitted) and (ended or len(text.emitted) == len(text.reference))


def shortfall(
    target: Target, prompt: Sequence[int], tokens: Sequence[int], sampler: TokenSampler
) -> float:
    """By how much the worst-chosen of `tokens` falls short of the best score."""
    rows = teacher_forced(target, prompt, tokens, 1)
    scores = (sampler.scores(row, [len(prompt) + i]) for i, row in enumerate(rows))
    return max(float(s.max() - s[0, token]) for s, token in zip(scores, tokens, strict=True))


def measured_margin(target: Target, prompt: Sequence[int], tokens: Sequence[int]) -> float:
    """How far two honest computations of one logit may lie apart: 2·max|Δ|.

    Δ is the difference between logits computed token by token and in blocks, on this model and
    text.
    """
    import torch

    one_by_one, blocks = (
        torch.cat(list(teacher_forced(target, prompt, tokens, size))) for size in (1, BLOCK)
    )
    measured = 2 * float((one_by_one - blocks).abs().max())
    return bounded_margin(measured, float(one_by_one.abs().max()), target.dtype)


def bounded_margin(measured: float, largest_logit: float, dtype: str) -> float:
    """A measured margin, held between 1 and 16 rounding steps of the largest logit.

    At least: a runtime whose two ways agree bit for bit still differs from another runtime in
    the last place. At most: one that computes blocks wrongly must not excuse itself by its error.
    """
    import torch

    step = torch.finfo(getattr(torch, dtype)).eps * largest_logit
    return min(max(measured, LEAST_STEPS * step), MOST_STEPS * step)


def teacher_forced(
    target: Target, prompt: Sequence[int], continuation: Sequence[int], block: int
) -> Iterator[Tensor]:
    """Logits that predict each token of `continuation`, `block` tokens a forward.

    Yields:
        float32.  # (block or fewer, V)
    """
    from skipopt.runtime.engine import Engine

    tokens = [*prompt, *continuation]
    engine = Engine(target, len(tokens))
    engine.prefill(list(prompt[:-1]))
    inputs = tokens[len(prompt) - 1 : -1]
    for start in range(0, len(inputs), block):
        yield engine.step(inputs[start : start + block]).float()
