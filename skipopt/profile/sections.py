"""The sections of a profile: their keys, types and ranges, as pydantic models."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from skipopt.draft_config import DraftConfig, Quant
from skipopt.draft_vocabulary import DraftVocabulary
from skipopt.errors import UsageError
from skipopt.memory_usage import Memory
from skipopt.methods import DRAFT_OPTIONS, METHODS, parse_method


def _four_digits(value: float) -> float:
    """`value` rounded to four significant digits; digits before the point all stay.

    Values are rounded when a section is built, not when it is printed, so that a saved profile
    reads back equal and drafts with the τ that was measured.
    """
    if value == 0:
        return 0.0
    return round(value, max(0, 3 - math.floor(math.log10(abs(value)))))


def wrong(value: object, expected: str, key: str = "") -> PydanticCustomError:
    """A validation error with the value, what was expected and the key (when not the field's)."""
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
Window = Annotated[int, Field(ge=1)]
# YAML has lists only, so the tuple itself is not strict; its numbers are.
Layers = Annotated[tuple[int, ...], Field(strict=False), AfterValidator(_each_once)]
# Nodes -> seconds; trees of one or two nodes are chains.
Trees = dict[Annotated[int, Field(ge=3)], Positive]


class Section(BaseModel):
    """Base of all sections: unknown keys refused, values frozen and strictly typed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSection(Section):
    """Which model the profile is for."""

    id: Text
    revision: Text | None
    architecture: Text
    layers: Annotated[int, Field(ge=1)]
    fingerprint: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]+$")]


class MaskSection(Section):
    """Zero-based layers whose sublayer is skipped while drafting, ascending."""

    attention: Layers
    mlp: Layers


class VocabSection(Section):
    """The tokens that drafts choose from.

    Attributes:
        size: their number.
        tokenizer: fingerprint of the tokenizer that numbers them; null where there was none.
        ids: as `DraftVocabulary.to_text` writes them.
    """

    size: Annotated[int, Field(ge=1)]
    tokenizer: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]+$")] | None
    ids: Text

    @field_validator("ids")
    @classmethod
    def _of_this_size(cls, text: str, info: ValidationInfo) -> str:
        try:
            count = len(DraftVocabulary.from_text(text))
        except ValueError:
            raise wrong(text, "token ids as `skipopt search` writes them") from None
        if count != info.data.get("size", count):
            raise wrong(text, f"{info.data['size']} token ids, not {count}")
        return text

    @property
    def vocabulary(self) -> DraftVocabulary:
        return DraftVocabulary.from_text(self.ids)


def draft_config_keys(draft_config: DraftConfig, tokenizer: str | None) -> dict[str, Any]:
    """The keys of a `DraftConfig` in a section.

    Args:
        draft_config: if it has a vocabulary, with its tokens.
        tokenizer: fingerprint of the tokenizer that numbers them.
    """
    vocabulary, vocab = draft_config.vocabulary, None
    if vocabulary is not None:
        ids = vocabulary.to_text()
        vocab = {"size": len(vocabulary), "tokenizer": tokenizer, "ids": ids}
    return {**draft_config.values, "vocab": vocab}


class DraftingSection(Section):
    """How drafts are made.

    Attributes:
        method: a method with options, as `methods.parse_method` reads it.
        gamma: γ, most tokens drafted per round (`num_speculative_tokens`); null where the method
            drafts without a mask.
        tau: τ, the draft confidence threshold; null where `gamma` is.
        quant: weight bits of the draft, `int8` or `int4`; null for the model's own weights.
        head: those of the output projection; null if as `quant`.
        int8_layers: decoder layers in `int8` while `quant` is `int4`.
        vocab: tokens that a draft chooses from; null for all.
        window: latest positions that a draft attends to; null for all.
        experts: routed experts that a draft runs for a token; null for as many as the model.
    """

    method: Annotated[str, AfterValidator(_known_method)]
    gamma: Annotated[int, Field(ge=1)] | None
    tau: Share | None
    quant: Quant | None = None
    head: Quant | None = None
    int8_layers: Layers = ()
    vocab: VocabSection | None = None
    window: Window | None = None
    experts: Count | None = None

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        spec = parse_method(self.method)
        for key in ("gamma", "tau"):
            value = getattr(self, key)
            if spec.method.needs_mask and value is None:
                raise wrong(None, f"a number: {self.method} uses it", f"drafting.{key}")
            if not spec.method.needs_mask and value is not None:
                raise wrong(value, f"null: {self.method} does not use it", f"drafting.{key}")
        for key in DRAFT_OPTIONS:
            value = self.model_dump(mode="json", include={key})[key]
            if value not in (None, []) and not spec.takes_draft_config:
                raise wrong(value, f"null: {self.method} does not use it", f"drafting.{key}")
        _check_int8_layers(self, "drafting")
        return self

    @property
    def draft_config(self) -> DraftConfig:
        return _draft_config(self)


class PredictedSection(Section):
    """Speedup of decoding alone, acceptance rate and matchness by replaying calibration texts."""

    speedup: Positive
    acceptance_rate: Share | None
    matchness: Share | None


class CandidateSection(Section):
    """The best mask found, in a profile that drafts without one, with its prediction."""

    attention: Layers
    mlp: Layers
    gamma: Annotated[int, Field(ge=1)]
    tau: Share
    quant: Quant | None = None
    head: Quant | None = None
    int8_layers: Layers = ()
    vocab: VocabSection | None = None
    window: Window | None = None
    experts: Count | None = None
    predicted: PredictedSection | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _check_int8_layers(self, "candidate")
        return self

    @property
    def draft_config(self) -> DraftConfig:
        return _draft_config(self)


def _draft_config(section: DraftingSection | CandidateSection) -> DraftConfig:
    vocab = section.vocab
    return DraftConfig.of(
        section.quant,
        section.window,
        section.head,
        section.int8_layers,
        None if vocab is None else vocab.size,
        None if vocab is None else vocab.vocabulary,
        section.experts,
    )


def _check_int8_layers(section: DraftingSection | CandidateSection, name: str) -> None:
    if section.int8_layers and section.quant != "int4":
        expected = f"no layers: {name}.quant is not int4"
        raise wrong(list(section.int8_layers), expected, f"{name}.int8_layers")


class ContextDraftingSection(Section):
    """γ and τ of a context bucket; the method is the profile's."""

    gamma: Annotated[int, Field(ge=1)]
    tau: Share


class ContextBucketSection(Section):
    """Mask, γ and τ for rounds that begin with at least `min_context` tokens (prompt included)."""

    min_context: Annotated[int, Field(ge=1)]
    mask: MaskSection
    drafting: ContextDraftingSection
    predicted: PredictedSection | None = None


def _null_is_none(buckets: object) -> object:
    if buckets is None:
        return ()
    if not isinstance(buckets, list | tuple):
        raise wrong(buckets, "a list of masks, each with its min_context, or null")
    return buckets


ContextBuckets = Annotated[
    tuple[ContextBucketSection, ...], Field(strict=False), BeforeValidator(_null_is_none)
]


class SearchSection(Section):
    """How the profile was found; `breaks_even_after_tokens` is null where it never does.

    Attributes:
        prompts: digest of the prompts.
        prompts_by_category: number of prompts used; null where they have no categories.
        chat_template: digest of the template that they went through; null for plain text.
        seconds_by_phase: of `seconds`; null where it is not known.
    """

    sampler: Text
    objective: Literal["speed", "matchness"]
    trials: Count
    seconds: Seconds
    seed: int
    prompts: Text
    breaks_even_after_tokens: Count | None
    prompts_by_category: dict[Text, Count] | None = None
    chat_template: Text | None = None
    seconds_by_phase: dict[Text, Seconds] | None = None


class CostsSection(Section):
    """The measured `cost_model.costs.Costs`, in seconds, under the same names.

    `verify_tree` (seconds by the nodes of a tree, the current token included) and the two
    `…_per_token` are missing where they were not measured.
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
        """Plain values, without those that were not measured."""
        # JSON mode would make the numbers of nodes text.
        values = {**self.model_dump(mode="json"), "verify_tree": dict(self.verify_tree)}
        optional = ("verify_tree", "attention_per_token", "verify_per_token")
        return {key: value for key, value in values.items() if value or key not in optional}


class MemorySection(Section):
    """`memory_usage.Memory` of the process that measured, in bytes."""

    weights: Count
    prepacked_weights: Count = 0
    fused_weights: Count = 0
    quantized_weights: Count = 0
    draft_vocabulary: Count = 0
    cache: Count = 0
    scratch: Count = 0

    @property
    def memory(self) -> Memory:
        """The same as a value."""
        return Memory(**self.model_dump())


class EnvironmentSection(Section):
    """Where it was measured, under the keys of `environment_record`; null for what is unknown."""

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
