"""From logits to tokens: greedy, or sampling with temperature, top-k and top-p.

Draft and target logits are processed by the same object, so that verification compares the
distributions that tokens are really drawn from.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skipopt.errors import UsageError
from skipopt.one_thread import one_thread
from skipopt.option_values import convert_numbers

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MIN_TEMPERATURE = 1e-5  # below it, logits divided by the temperature may exceed float32


MAX_SEED = (1 << 63) - 1


def check_seed(seed: int) -> None:
    """Raise UsageError for a seed that some generator of random numbers does not take."""
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"a seed must lie in 0 … 2^63 - 1, not {seed}", hint="try --seed 0")


@one_thread()
def largest(scores: Tensor) -> list[int]:
    """The index of the first largest value of each row.  # (n, V) -> n

    On a CPU numpy finds it, in a tenth of torch's time.
    """
    import torch

    found: list[int]
    if scores.device.type == "cpu":
        exact = scores.detach().to(torch.promote_types(scores.dtype, torch.float32))
        found = exact.numpy().argmax(-1).tolist()
    else:
        found = scores.argmax(-1).tolist()
    return found


@one_thread()
def second_largest(scores: Tensor, first: Tensor) -> Tensor:
    """The index of the largest value of each row beside the first's.  # (n, V), (n,) -> (n,)"""
    import torch

    others = scores.scatter(-1, first[:, None], -float("inf"))
    if scores.device.type == "cpu":
        return torch.tensor(largest(others))
    return others.argmax(-1)


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are chosen; temperature 0 is greedy.

    Attributes:
        temperature: logits are divided by it; the lowest above 0 is `MIN_TEMPERATURE`.
        top_k: only the k likeliest tokens; 0 = all.
        top_p: only the likeliest tokens that together have this probability.
        seed: of all random draws.

    Raises:
        UsageError: a value outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        convert_numbers(self)
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature must be 0 or more, not {self.temperature}")
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise UsageError(
                f"temperature must be 0 or at least {MIN_TEMPERATURE:g}, not {self.temperature}",
                hint="use 0, which always takes the most likely token",
            )
        if self.top_k < 0:
            raise UsageError(f"top-k must be 0 (off) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p must lie in (0, 1], not {self.top_p}")
        check_seed(self.seed)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


class TokenSampler:
    """Chooses tokens, coupled or not.

    Coupled: the token at an absolute position is a function of the logits, the seed and the
    position. Equal logits give equal tokens, so drafts can be verified by matching, and the text
    is that of plain decoding whatever is drafted. Greedy is always coupled.

    Not coupled: every draw uses fresh random numbers, as rejection sampling needs.

    Args:
        options: how tokens are chosen.
        device: of the logits.
        coupled: see above.
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

    @one_thread()
    def choose(self, logits: Tensor, positions: Sequence[int]) -> list[int]:
        """Coupled: the token of each row at its absolute position.  # (n, V), n -> n tokens"""
        return largest(self.scores(logits, positions))

    @one_thread()
    def scores(self, logits: Tensor, positions: Sequence[int]) -> Tensor:
        """Coupled: scores whose argmax is the chosen token.  # (n, V), n -> (n, V)

        When sampling these are log q + g with Gumbel noise g, whose argmax is a draw from q.
        """
        import torch

        if self.greedy:
            return logits
        noise = [self._noise.at(p, logits.shape[-1]) for p in positions]
        return self._processed(logits).double() + torch.stack(noise)

    def draft(self, logits: Tensor, position: int) -> tuple[int, Tensor | None]:
        """A token for a draft; if it was drawn, also the probabilities.  # (V,) -> token, (V,)"""
        if self.coupled:
            return self.choose(logits[None], [position])[0], None
        row = self.probabilities(logits[None])[0]
        return self.draw(row), row

    @one_thread()
    def probabilities(self, logits: Tensor) -> Tensor:
        """Processed probabilities in float32.  # (n, V) -> (n, V)"""
        return self._processed(logits).softmax(-1)

    def _processed(self, logits: Tensor) -> Tensor:
        # None: these warpers read the scores only, not the token ids before.
        scores: Tensor = self._warp(None, logits.float())  # type: ignore[arg-type]
        return scores

    @one_thread()
    def draw(self, probabilities: Tensor) -> int:
        """Draw one token.  # (V,)"""
        import torch

        return int(torch.multinomial(probabilities, 1, generator=self.generator))

    def uniform(self) -> float:
        """A random number in [0, 1)."""
        import torch

        device = self.generator.device
        # float64, because the 2^-24 grid of float32 cannot resolve smaller probabilities.
        return float(torch.rand((), generator=self.generator, device=device, dtype=torch.float64))

    @one_thread()
    def gumbel(self, shape: Sequence[int]) -> Tensor:
        """Fresh Gumbel(0, 1) noise, float64."""
        import torch

        noise = torch.empty(*shape, dtype=torch.float64, device=self.generator.device)
        return -noise.exponential_(generator=self.generator).log()


class PositionNoise:
    """Gumbel noise that depends on the seed and the absolute position only."""

    # Draft and verification ask for the same few positions again and again.
    CACHED_POSITIONS = 64

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._device = device
        self._cache: OrderedDict[tuple[int, int], Tensor] = OrderedDict()

    def at(self, position: int, size: int) -> Tensor:
        """The noise of one position, float64.  # (V,)"""
        key = (position, size)
        if key not in self._cache:
            self._cache[key] = self._make(position, size)
            if len(self._cache) > self.CACHED_POSITIONS:
                self._cache.popitem(last=False)
        return self._cache[key]

    def _make(self, position: int, size: int) -> Tensor:
        import torch

        # Hashed, because generators with neighboring seeds may give correlated numbers.
        digest = hashlib.blake2b(f"{self._seed} {position}".encode(), digest_size=8).digest()
        generator = torch.Generator(device=self._device)
        generator.manual_seed(int.from_bytes(digest, "little") >> 1)
        noise = torch.empty(size, dtype=torch.float64, device=self._device)
        return -noise.exponential_(generator=generator).log()


@one_thread()
def confidence(logits: Tensor) -> Tensor:
    """The probability of the likeliest token at temperature 1.  # (…, V) -> (…)"""
    return (logits.amax(-1) - logits.logsumexp(-1)).exp()
