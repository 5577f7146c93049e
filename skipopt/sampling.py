"""From logits to the distribution that is decoded: greedy, or temperature, top-k and top-p.

Draft and target are processed by the same object, so that acceptance compares what is really
sampled. Knows nothing of drafting.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
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


class TokenSampler:
    """Chooses tokens, in one of two ways.

    Coupled: the token at each absolute position is a function of the logits, the seed and the
    position, so whoever chooses with the same logits chooses the same token: drafts can be
    matched, and any draft leads to the text of plain decoding. Greedy is always coupled.
    Not coupled: every draw is fresh, as rejection sampling needs it.
    """

    def __init__(self, options: SamplingOptions, device: torch.device, coupled: bool) -> None:
        import torch
        from transformers import (
            LogitsProcessorList,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        self.greedy = options.greedy
        self.coupled = coupled or options.greedy
        self.generator = torch.Generator(device=device).manual_seed(options.seed)
        self._noise = PositionNoise(options.seed, device)
        warpers: list[Any] = []
        if not self.greedy and options.temperature != 1.0:
            warpers.append(TemperatureLogitsWarper(options.temperature))
        if options.top_k:
            warpers.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1.0:
            warpers.append(TopPLogitsWarper(options.top_p))
        self._warp = LogitsProcessorList(warpers)

    def choose(self, logits: Tensor, positions: Sequence[int]) -> list[int]:
        """Coupled: the token of each row at its absolute position.  # (n, V), n -> n"""
        chosen: list[int] = self.scores(logits, positions).argmax(-1).tolist()
        return chosen

    def scores(self, logits: Tensor, positions: Sequence[int]) -> Tensor:
        """Coupled: what the chosen token is the argmax of.  # (n, V), n -> (n, V)

        argmax(log q + g) with Gumbel noise g is a draw from q.
        """
        import torch

        if self.greedy:
            return logits
        noise = [self._noise.at(p, logits.shape[-1]) for p in positions]
        return self._processed(logits).double() + torch.stack(noise)

    def draft(self, logits: Tensor, position: int) -> tuple[int, Tensor | None]:
        """A token for a draft, and the row it was drawn from where it was drawn.  # (V,)"""
        if self.coupled:
            return self.choose(logits[None], [position])[0], None
        row = self.probabilities(logits[None])[0]
        return self.draw(row), row

    def probabilities(self, logits: Tensor) -> Tensor:
        """Processed probabilities, float32.  # (n, V) -> (n, V)"""
        return self._processed(logits).softmax(-1)

    def _processed(self, logits: Tensor) -> Tensor:
        # None: these warpers look at scores alone, never at the ids before.
        scores: Tensor = self._warp(None, logits.float())  # type: ignore[arg-type]
        return scores

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

    def gumbel(self, shape: Sequence[int]) -> Tensor:
        """Fresh Gumbel(0, 1) noise, float64."""
        import torch

        noise = torch.empty(*shape, dtype=torch.float64, device=self.generator.device)
        return -noise.exponential_(generator=self.generator).log()


class PositionNoise:
    """Gumbel noise that depends on seed and absolute position alone."""

    # Rounds look ahead and come back: a few positions are asked for again and again.
    KEPT = 64

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._device = device
        self._known: OrderedDict[tuple[int, int], Tensor] = OrderedDict()

    def at(self, position: int, size: int) -> Tensor:
        """float64  # (V,)"""
        key = (position, size)
        if key not in self._known:
            self._known[key] = self._make(position, size)
            if len(self._known) > self.KEPT:
                self._known.popitem(last=False)
        return self._known[key]

    def _make(self, position: int, size: int) -> Tensor:
        import torch

        # Hashed, because generators seeded with neighbouring numbers may be alike.
        digest = hashlib.blake2b(f"{self._seed} {position}".encode(), digest_size=8).digest()
        generator = torch.Generator(device=self._device)
        generator.manual_seed(int.from_bytes(digest, "little") >> 1)
        noise = torch.empty(size, dtype=torch.float64, device=self._device)
        return -noise.exponential_(generator=generator).log()


def confidence(logits: Tensor) -> Tensor:
    """Probability of the likeliest token at temperature 1.  # (…, V) -> (…)"""
    return (logits.amax(-1) - logits.logsumexp(-1)).exp()
