"""How a text is decoded: the method, its length, sampling and stop strings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from skipopt.errors import UsageError
from skipopt.option_values import brief, convert_numbers
from skipopt.sampling import SamplingFields, SamplingOptions


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DecodingOptions:
    """All options of one decoding. Every default is set here and nowhere else.

    Attributes:
        method: a name with options, as `skipopt.methods.parse_method` reads it; None: the
            profile's method, and `plain` without a profile.
        max_new_tokens: most tokens to generate.
        temperature: 0 is greedy.
        top_p: sample from the most likely tokens whose probabilities sum to `top_p`; 1: all.
        top_k: sample from this many most likely tokens; 0: all.
        seed: the same seed gives the same text; where drafts of quantized weights are verified by
            rejection, as long as the same kernels compute them, which are chosen by timing.
        stop: strings that end the text. The text ends before the one that is completed first.
            A list, or a single string, is accepted too.
        min_p, typical_p, epsilon_cutoff, eta_cutoff, repetition_penalty, no_repeat_ngram_size,
            min_new_tokens: see `SamplingOptions`.

    Raises:
        UsageError: a value out of range, or an empty stop string.
    """

    method: str | None = None
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: str | tuple[str, ...] = ()
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _strings(self.stop))
        convert_numbers(self)
        if self.max_new_tokens < 1:
            raise UsageError(f"max-new-tokens must be 1 or more, not {self.max_new_tokens}")
        if "" in self.stop:
            raise UsageError("a stop string must not be empty", hint="leave out --stop")
        _ = self.sampling  # raises where a value is out of range

    def __repr__(self) -> str:
        return brief(self)

    @property
    def sampling(self) -> SamplingOptions:
        return SamplingOptions(
            **{each.name: getattr(self, each.name) for each in fields(SamplingOptions)}
        )


def _strings(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


class DecodingFields(SamplingFields, total=False):
    """The fields of `DecodingOptions`, as keyword arguments."""

    method: str | None
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: str | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ChatOptions(DecodingOptions):
    """The options of each answer of a chat."""

    max_new_tokens: int = 512
