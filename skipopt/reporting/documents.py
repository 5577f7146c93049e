"""What `run`, `bench` and `check` print with --json, as types: for schemas of their documents.

A document of a later version may have further keys; these stay. `search --json` prints a profile.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]+$")]


class Document(BaseModel):
    """Base: further keys are allowed."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class IntervalDocument(Document):
    """A median ratio with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float


class LosslessDocument(Document):
    """Number of texts by how they compare with plain decoding."""

    verdict: Literal["exact", "within-margin", "failed"]
    exact: Count
    within_margin: Count
    failed: Count
    margin: float | None = Field(description="The largest numerical margin; null if none was used")


class EnvironmentDocument(Document):
    """Machine, versions and settings of a measurement."""

    skipopt: str | None
    commit: str | None = Field(description="Of a checkout of skipopt, else null")
    python: str
    platform: str
    torch: str | None
    transformers: str | None
    device: str
    dtype: str
    runtime: str
    threads: Annotated[int, Field(ge=1)]
    memory: dict[str, Count] = Field(description="Bytes by use")


class ModelDocument(Document):
    """Which model was decoded with."""

    id: str
    revision: str | None
    architecture: str
    layers: Annotated[int, Field(ge=1)]
    fingerprint: Digest


class EndToEndDocument(Document):
    """Speedups of whole texts over the reference, prefill included; null where not measured."""

    end_to_end: IntervalDocument | None
    end_to_end_at: dict[str, IntervalDocument] = Field(description="By number of new tokens")
    first_text: IntervalDocument | None = Field(
        description="Of texts for which nothing was captured or copied before"
    )
    first_text_at: dict[str, IntervalDocument]


class SampleDocument(Document):
    """One decoding of one prompt."""

    prompt: Count
    repeat: Count
    tokens: Count
    timed_tokens: Count
    prefill_seconds: Seconds
    decode_seconds: Seconds
    total_seconds: Seconds
    seconds_to: dict[str, Seconds] = Field(description="Up to so many new tokens")


class CheckSampleDocument(SampleDocument):
    """The same with the runner that decoded."""

    method: str


class CompareDocument(EndToEndDocument):
    """The key `compare` of `run --compare`."""

    speedup: float
    pair_ratios: list[float]
    plain_tokens_per_second: float
    differs_at: Count | None = Field(description="First other token; null: the same tokens")
    lossless: LosslessDocument | None


class RunDocument(Document):
    """`skipopt run --json`."""

    text: str
    tokens: list[Count] = Field(description="The new token ids")
    prompt_tokens: Count
    new_tokens: Count
    method: str
    seconds: Seconds
    tokens_per_second: Annotated[float, Field(ge=0)]
    prefill_seconds: Seconds
    time_to_first_token: Seconds | None
    target_forwards: Count
    draft_forwards: Count
    drafted: Count
    accepted: Count
    acceptance_rate: Share | None
    mean_acceptance_length: float = Field(description="Tokens per target forward, bonus included")
    acceptance_by_position: list[Share]
    put_off_tokens: Count = Field(description="Decoded before drafts paid their preparation")
    stop_reason: str | None
    profile: str | None
    runtime: str
    memory: dict[str, Count] = Field(description="Bytes by use")
    graph_capture: dict[str, Any]
    compare: CompareDocument | None = None
    tuning: dict[str, Any] | None = None
    rounds: list[dict[str, Any]] | None = None


class MethodDocument(EndToEndDocument):
    """One method of a bench; figures are null where it failed."""

    name: str
    settings: dict[str, Any]
    tokens_per_second: float | None
    prefill_seconds: Seconds | None
    speedup: IntervalDocument | None = Field(description="Of decoding alone, over plain decoding")
    speedup_by_category: dict[str, IntervalDocument]
    speedup_vs_hf: IntervalDocument | None
    acceptance_rate: Share | None
    drafts_by_source: dict[str, dict[str, float]] = Field(description="For 100 new tokens")
    mean_acceptance_length: float | None
    guarantee: Literal["same tokens", "same distribution", "none"]
    lossless: LosslessDocument | None
    error: str | None
    samples: list[SampleDocument]


class PromptsDocument(Document):
    """The prompts of a measurement."""

    hash: Digest
    count: Count


class BenchPromptsDocument(PromptsDocument):
    """The same with how many of them were timed."""

    num_timed: Count
    skipped_prompts: Count
    repetitive: Count
    repetitive_tokens: Count
    share_repetitive: Share
    categories: dict[str, Count]
    category_of: list[str | None] = Field(description="Of each timed prompt, as samples number it")


class BenchDocument(Document):
    """`skipopt bench --json`."""

    environment: EnvironmentDocument
    model: ModelDocument
    prompts: BenchPromptsDocument
    max_new_tokens: Annotated[int, Field(ge=1)]
    repeats: Annotated[int, Field(ge=1)]
    sampling: dict[str, float | int | None]
    methods: list[MethodDocument]


class BaselineDocument(Document):
    """What a check compared with."""

    speedup: float | None
    reason: str
    texts: Count | None
    tolerance: Share


class CheckDocument(EndToEndDocument):
    """`skipopt check --json`."""

    verdict: Literal["pass", "fail", "inconclusive"]
    reason: str
    model: ModelDocument
    prompts: PromptsDocument
    max_new_tokens: Annotated[int, Field(ge=1)]
    speedup: IntervalDocument | None
    floor: Annotated[float, Field(gt=0)] = Field(description="The least speedup")
    kept: dict[str, Any] | None = Field(description="The change since the baseline")
    baseline: BaselineDocument
    against: dict[str, Any] | None = Field(
        description="Method and settings of the profile that speedups are over; null: plain"
    )
    lossless: LosslessDocument | None
    acceptance_rate: Share | None
    environment: EnvironmentDocument
    texts: list[str]
    samples: list[CheckSampleDocument]


DOCUMENTS: dict[str, type[Document]] = {
    "run": RunDocument,
    "bench": BenchDocument,
    "check": CheckDocument,
}
