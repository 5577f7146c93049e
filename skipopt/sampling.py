"""From logits to tokens: greedy, or sampling with temperature, top-k, top-p and their kind.

Draft and target logits are processed by the same object, so that verification compares the
distributions that tokens are really drawn from. What depends on the tokens before, such as a
repetition penalty, is applied earlier (`LogitsProcessing`).
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from skipopt.errors import UsageError
from skipopt.one_thread import one_thread
from skipopt.option_values import convert_numbers, option_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from skipopt.logits_processing import Processor

MIN_TEMPERATURE = 1e-5  # below it, logits divided by the temperature may exceed float32
LEAST_EXPONENTIAL = 1e-300  # of 0, which may be drawn, the logarithm is infinite

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


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are chosen; temperature 0 is greedy.

    Each means what the option of transformers' `generate` of that name means, and they are applied
    in the same order.

    Attributes:
        temperature: logits are divided by it; the lowest above 0 is `MIN_TEMPERATURE`.
        top_k: only the k likeliest tokens; 0 = all.
        top_p: only the likeliest tokens that together have this probability.
        seed: of all random draws.
        min_p: only tokens with at least this share of the likeliest one's probability; 0 = all.
        typical_p: only the most typical tokens that together have this probability.
        epsilon_cutoff: only tokens with at least this probability; 0 = all.
        eta_cutoff: the same with a bound that falls with the entropy; 0 = all.
        repetition_penalty: the logits of tokens that were there before are divided by it, or
            multiplied where negative; 1 = as they are.
        no_repeat_ngram_size: no n tokens in a row occur twice; 0 = they may.
        min_new_tokens: no end of text before so many new tokens.

    Raises:
        UsageError: a value outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0

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
        self._check_others()

    def _check_others(self) -> None:
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min-p must lie in [0, 1], not {self.min_p}")
        if not 0 < self.typical_p <= 1:
            raise UsageError(f"typical-p must lie in (0, 1], not {self.typical_p}")
        for name in ("epsilon_cutoff", "eta_cutoff"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise UsageError(f"{option_name(name)} must lie in [0, 1), not {value}")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UsageError(f"repetition-penalty must be above 0, not {self.repetition_penalty}")
        for name in ("no_repeat_ngram_size", "min_new_tokens"):
            if (value := getattr(self, name)) < 0:
                raise UsageError(f"{option_name(name)} must be 0 (off) or more, not {value}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def processors(
        self, prompt_tokens: int, eos_ids: Collection[int], device: torch.device
    ) -> list[Processor]:
        """The processors of options that depend on the tokens before."""
        from transformers import (
            MinNewTokensLengthLogitsProcessor,
            NoRepeatNGramLogitsProcessor,
            RepetitionPenaltyLogitsProcessor,
        )

        made: list[Processor] = []
        if self.repetition_penalty != 1.0:
            made.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.no_repeat_ngram_size:
            made.append(NoRepeatNGramLogitsProcessor(self.no_repeat_ngram_size))
        if self.min_new_tokens and eos_ids:
            ends: Any = sorted(eos_ids)
            made.append(
                MinNewTokensLengthLogitsProcessor(
                    prompt_tokens, self.min_new_tokens, ends, device=str(device)
                )
            )
        return made

    def warpers(self, device: torch.device) -> list[Processor]:
        """The processors of options that shape the distribution; none if greedy."""
        from transformers import (
            EpsilonLogitsWarper,
            EtaLogitsWarper,
            MinPLogitsWarper,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
            TypicalLogitsWarper,
        )

        if self.greedy:
            return []
        made: list[tuple[bool, Callable[[], Processor]]] = [
            (self.temperature != 1.0, lambda: TemperatureLogitsWarper(self.temperature)),
            (self.top_k > 0, lambda: TopKLogitsWarper(self.top_k)),
            (self.top_p < 1.0, lambda: TopPLogitsWarper(self.top_p)),
            (self.min_p > 0, lambda: MinPLogitsWarper(self.min_p)),
            (self.typical_p < 1.0, lambda: TypicalLogitsWarper(self.typical_p)),
            (self.epsilon_cutoff > 0, lambda: EpsilonLogitsWarper(self.epsilon_cutoff)),
            (self.eta_cutoff > 0, lambda: EtaLogitsWarper(self.eta_cutoff, device=str(device))),
        ]
        return [make() for used, make in made if used]


class SamplingFields(TypedDict, total=False):
    """Fields of `SamplingOptions` beside temperature, top-k, top-p and seed, as arguments."""

    min_p: float
    typical_p: float
    epsilon_cutoff: float
    eta_cutoff: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    min_new_tokens: int


@one_thread()
def with_numbers(logits: Tensor) -> Tensor:
    """The logits with 0 in rows whose largest one is not finite.

    Such a row may be of a draft that is rejected: what is read of it must not fail before.
    """
    finite = logits.amax(-1, keepdim=True).isfinite()
    return logits if bool(finite.all()) else logits.masked_fill(~finite, 0.0)


@one_thread()
def has_numbers(logits: Tensor) -> bool:
    """Whether the largest logit of a row is finite, so that a token can be chosen.  # (V,)"""
    return math.isfinite(float(logits.amax()))


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

        self.greedy = options.greedy
        self.coupled = coupled or options.greedy
        # Apple's devices have no float64, in which probabilities are compared.
        self._device = torch.device("cpu") if device.type == "mps" else device
        self.generator = torch.Generator(device=self._device).manual_seed(options.seed)
        self._noise = PositionNoise(options.seed, self._device)
        self._warpers = options.warpers(self._device)

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
        scores = logits.float().to(self._device)
        for warper in self._warpers:
            scores = warper(None, scores)  # they read no token ids
        return with_numbers(scores)

    @one_thread()
    def draw(self, probabilities: Tensor) -> int:
        """Draw one token.  # (V,)

        `torch.multinomial` takes a logarithm for each token, which is most of a draft's time.
        """
        import torch

        cumulative = probabilities.double().cumsum(-1)
        total = float(cumulative[-1])
        # Below the total, as its rounded product with a number below 1 may not be.
        value = min(self.uniform() * total, math.nextafter(total, 0.0))
        found = torch.searchsorted(cumulative, cumulative.new_tensor(value), right=True)
        return int(found)

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
        # Hashed, because generators with neighboring seeds may give correlated numbers.
        digest = hashlib.blake2b(f"{self._seed} {position}".encode(), digest_size=8).digest()
        drawn = _exponential(int.from_bytes(digest, "little") >> 1, size, self._device)
        return _log(drawn.clamp_(min=LEAST_EXPONENTIAL)).neg_()


def _exponential(seed: int, size: int, device: torch.device) -> Tensor:
    """Random numbers of density exp(−x), float64.  # (size,)

    On a CPU numpy draws them, in a sixth of torch's time.
    """
    import numpy as np
    import torch

    if device.type == "cpu":
        numbers = np.random.Generator(np.random.SFC64(seed))
        return torch.from_numpy(numbers.standard_exponential(size))
    generator = torch.Generator(device=device).manual_seed(seed)
    empty = torch.empty(size, dtype=torch.float64, device=device)
    return empty.exponential_(generator=generator)


def _log(numbers: Tensor) -> Tensor:
    """The logarithms, in place; on a CPU by numpy, in a fifth of torch's time."""
    import numpy as np

    if numbers.device.type != "cpu":
        return numbers.log_()
    values = numbers.numpy()
    np.log(values, out=values)
    return numbers


@one_thread()
def confidence(logits: Tensor) -> Tensor:
    """The probability of the likeliest token at temperature 1.  # (…, V) -> (…)"""
    return (logits.amax(-1) - logits.logsumexp(-1)).exp()
