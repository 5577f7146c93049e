"""From logits to the distribution that is decoded: greedy, or temperature, top-k and top-p.

Draft and target are processed by the same object, so that acceptance compares what is really
sampled. Knows nothing of drafting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skipopt.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """What a user may set; temperature 0 is greedy.

    Raises:
        UsageError: a value outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise UsageError(f"top-k must be 0 (off) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p must lie in (0, 1], not {self.top_p}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


class Sampler:
    """Processed probabilities and draws from them, with one random stream a decoding."""

    def __init__(self, options: SamplingOptions, device: torch.device) -> None:
        import torch
        from transformers import (
            LogitsProcessorList,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        self.greedy = options.greedy
        self.generator = torch.Generator(device=device).manual_seed(options.seed)
        warpers: list[Any] = []
        if not self.greedy and options.temperature != 1.0:
            warpers.append(TemperatureLogitsWarper(options.temperature))
        if options.top_k:
            warpers.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1.0:
            warpers.append(TopPLogitsWarper(options.top_p))
        self._warp = LogitsProcessorList(warpers)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Processed probabilities, float32.  # (n, V) -> (n, V)"""
        # None: these warpers look at scores alone, never at the ids before.
        scores: Tensor = self._warp(None, logits.float())  # type: ignore[arg-type]
        return scores.softmax(-1)

    def draw(self, probabilities: Tensor) -> int:
        """One token from one row.  # (V,)"""
        import torch

        return int(torch.multinomial(probabilities, 1, generator=self.generator))

    def uniform(self) -> float:
        """u in [0, 1)."""
        import torch

        device = self.generator.device
        # float64: with float32's 2^-24 grid an event of smaller probability could not be told.
        return float(torch.rand((), generator=self.generator, device=device, dtype=torch.float64))


def confidence(logits: Tensor) -> Tensor:
    """Probability of the likeliest token at temperature 1.  # (…, V) -> (…)"""
    return (logits.amax(-1) - logits.logsumexp(-1)).exp()
