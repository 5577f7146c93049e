"""The parts of a profile and what their values may be. Knows nothing of files."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from skipopt.draft_config import DraftConfig
from skipopt.errors import UsageError
from skipopt.memory_usage import Memory
from skipopt.methods import METHODS, parse_method


def _four_digits(value: float) -> float:
    """Four significant digits, and every digit before the point.

    Rounded where a value enters and not where it is printed, so that a saved profile is read
    back equal and drafts with the τ it was measured with.
    """
    if value == 0:
        return 0.0
    return round(value, max(0, 3 - math.floor(math.log10(abs(value)))))


def wrong(value: object, expected: str, key: str = "") -> PydanticCustomError:
    """An error of our own, in the parts that every message here is made of."""
    context = {"value": value, "expected": expected, "key": key}
    return PydanticCustomError("profile", "expected {expected}", context)


def _each_once(layers: tuple[int, ...]) -> tuple[int, ...]:
    for layer in layers:
        if layers.count(layer) > 1:
            raise wrong(layer, "each layer once")
    return tuple(sorted(layers))


def _known_method(name: str) -> str:
    try:
        parse_method(name)
    except UsageError:
        raise wrong(name, f"one of {', '.join(METHODS)}") from None
    return name


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1), AfterValidator(_four_digits)]
Positive = Annotated[float, Field(gt=0), AfterValidator(_four_digits)]
Figure = Annotated[float, AfterValidator(_four_digits)]
Seconds = Annotated[float, Field(ge=0), AfterValidator(_four_digits)]
# YAML knows lists only, so the tuple itself cannot be strict; its numbers are.
Layers = Annotated[tuple[int, ...], Field(strict=False), AfterValidator(_each_once)]
# Smaller ones are chains.
Trees = dict[Annotated[int, Field(ge=3)], Positive]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSection(Part):
    """Which model the mask was found for."""

    id: Text
    revision: Text | None
    architecture: Text
    layers: Annotated[int, Field(ge=1)]
    fingerprint: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]+$")]


class Mask(Part):
    """Zero-based layers whose sublayer is skipped while drafting, ascending."""

    attention: Layers
    mlp: Layers


class DraftConfigSection(Part):
    """What makes drafts cheaper beside the mask; see `skipopt.draft_config.Levers`."""

    int8: bool = False
    int4: bool = False
    window: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if self.int8 and self.int4:
            raise wrong(True, "false where int8 is true", "drafting.levers.int4")
        return self

    @classmethod
    def of(cls, draft_config: DraftConfig) -> Self:
        """The same as they stand in a file."""
        return cls(
            int8=draft_config.weight_bits == 8,
            int4=draft_config.weight_bits == 4,
            window=draft_config.attention_window,
        )

    @property
    def draft_config(self) -> DraftConfig:
        """The value they describe."""
        return DraftConfig(8 if self.int8 else 4 if self.int4 else None, self.window)

    @model_serializer
    def _pulled(self) -> dict[str, bool | int]:
        """Those that are pulled."""
        facts = {"int8": self.int8, "int4": self.int4, "window": self.window}
        return {name: value for name, value in facts.items() if value}


def _in_parts(draft_config: object) -> object:
    if isinstance(draft_config, str):  # as they are written everywhere but here
        raise wrong(draft_config, "a mapping like {int8: true, window: 256}")
    return draft_config


class Drafting(Part):
    """Method, draft length γ and stop threshold τ; levers, at any length of text, where any."""

    method: Annotated[str, AfterValidator(_known_method)]
    gamma: Annotated[int, Field(ge=1)]
    tau: Share
    draft_config: Annotated[DraftConfigSection | None, BeforeValidator(_in_parts)] = None

    @model_validator(mode="after")
    def _knows_levers(self) -> Self:
        pulled = self.draft_config and self.draft_config.draft_config
        if pulled and not parse_method(self.method).takes_draft_config:
            expected = f"none: {self.method} drafts without levers"
            raise wrong(str(pulled), expected, "drafting.levers")
        return self


class DraftSettingsSection(Part):
    """Draft length γ and stop threshold τ; the method is the profile's."""

    gamma: Annotated[int, Field(ge=1)]
    tau: Share


class Predicted(Part):
    """What replaying the traces promised; matchness is null where no mask drafts."""

    speedup: Positive
    acceptance_rate: Share | None
    matchness: Share | None


class ContextBucketSection(Part):
    """What drafts in rounds that begin with at least `from` tokens of prompt and text."""

    start: Annotated[int, Field(alias="from", ge=1)]
    mask: Mask
    drafting: DraftSettingsSection
    predicted: Predicted | None = None


def _null_is_none(buckets: object) -> object:
    if buckets is None:
        return ()
    if not isinstance(buckets, list | tuple):
        raise wrong(buckets, "a list of masks, each with the length it is used from, or null")
    return buckets


# YAML knows lists only, as above.
Buckets = Annotated[
    tuple[ContextBucketSection, ...], Field(strict=False), BeforeValidator(_null_is_none)
]


class Interval(Part):
    """A paired median with its 95 % bootstrap interval."""

    median: Positive
    low: Positive
    high: Positive


class Measured(Part):
    """What real decoding gave; speeds in tokens per second.

    `others`: speedups of other methods in the same runs. `standings`: of each of them, whether it
    was `ahead` on average, though not surely or not losslessly; `tied`, not surely slower than the
    fastest; or surely `behind`.
    """

    speedup: Interval
    acceptance_rate: Share | None
    mean_acceptance_length: Positive
    plain_tokens_per_second: Positive
    tokens_per_second: Positive
    lossless: Literal["exact", "within-margin", "failed"]
    others: dict[Text, Interval] | None = None
    standings: dict[Text, Literal["ahead", "tied", "behind"]] | None = None


class Search(Part):
    """How the mask was found; null for `breaks_even_after_tokens` means never."""

    sampler: Text
    objective: Literal["speed", "matchness"]
    trials: Count
    seconds: Seconds
    seed: int
    prompts: Text
    breaks_even_after_tokens: Count | None


class CostsSection(Part):
    """Seconds of what decoding is made of; see `skipopt.cost_model.costs.Prices`.

    `verify`: rounds of 1, 2, … tokens. `relative_iqr`: how much a plain step varied, as a share.
    `verify_tree`: the same by the nodes of a tree, the current token one of them. `…_per_token`:
    what each token of context adds. These may be missing: not every profile knows them.
    """

    context: Count
    overhead: Figure
    attention: Figure
    mlp: Figure
    layer_overhead: Figure
    confidence: Seconds
    verify: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]
    relative_iqr: Seconds
    verify_tree: Trees = Field(default_factory=dict)
    attention_per_token: Seconds = 0.0
    verify_per_token: Seconds = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without those that nothing is known of."""
        # JSON's keys are text, and those of trees are numbers.
        values = {**self.model_dump(mode="json"), "verify_tree": dict(self.verify_tree)}
        optional = ("verify_tree", "attention_per_token", "verify_per_token")
        return {key: value for key, value in values.items() if value or key not in optional}


class MemorySection(Part):
    """Bytes held by the process that measured; see `skipopt.memory_usage.Memory`."""

    weights: Count
    prepacked_weights: Count = 0
    fused_weights: Count = 0
    quantized_weights: Count = 0
    cache: Count = 0

    @property
    def memory(self) -> Memory:
        """The value they describe."""
        return Memory(**self.model_dump())


class Environment(Part):
    """Where it was measured: `environment_record`'s keys; null for what is not known."""

    skipopt: Text
    commit: Text | None = None
    dirty: bool | None = None
    python: Text | None = None
    platform: Text | None = None
    torch: Text | None
    transformers: Text | None
    device: Text
    dtype: Text
    runtime: Text
    threads: Annotated[int, Field(ge=1)]
    memory: MemorySection | None = None
