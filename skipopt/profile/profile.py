"""The profile as a whole: built, read, compared with a model, and saved."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import ProfileError
from skipopt.files import write_atomically
from skipopt.masks import KINDS, SkipMask
from skipopt.methods import parse_method
from skipopt.option_values import real_number, whole_number
from skipopt.profile.draft_settings import DraftSettings
from skipopt.profile.model_identity import ModelIdentity, check_vocabulary, model_facts
from skipopt.profile.parsing import (
    BUILTIN,
    SEARCH_AGAIN,
    builtin_path,
    parse_yaml,
    read_text,
)
from skipopt.profile.result_sections import (
    AblationSection,
    ExpectedSection,
    MeasuredSection,
)
from skipopt.profile.sections import (
    CandidateSection,
    ContextBuckets,
    ContextBucketSection,
    CostsSection,
    DraftingSection,
    EnvironmentSection,
    MaskSection,
    ModelSection,
    PredictedSection,
    SearchSection,
    Section,
    Text,
    draft_config_keys,
    wrong,
)
from skipopt.profile.validation_errors import SCHEMA, check_schema, show, validate
from skipopt.profile.yaml_style import Dumper, header

# Keys that are left out where they hold nothing, of a profile and of its `drafting`.
OPTIONAL = ("candidate", "contexts", "expected", "ablation", "costs")
OPTIONAL_DRAFTING = ("head", "int8_layers", "experts")


class Profile(Section):
    """Everything another machine needs to trust a profile, or to measure it again.

    Attributes:
        enabled: false where speculation does not pay; `reason` then says why.
        mask: the sublayers that drafts skip; null for a method that drafts without a mask.
        candidate: the best mask found, where `mask` is null or skips nothing.
        contexts: further masks for longer texts; `mask` and `drafting` hold below the first
            `min_context`.
        expected: what `check` compares with; null where nothing was measured.
        ablation: the gain of each part of the drafts, or of the candidate's.
        predicted, measured, search, environment: null in a profile made by hand. The keys must be
            there all the same, so that a file cut short is never read as a profile.
        costs: the measured costs that predictions used, on the machine of `environment`.
    """

    schema_version: int = Field(alias="schema")
    enabled: bool = True
    reason: Text | None = None
    model: ModelSection
    mask: MaskSection | None
    drafting: DraftingSection
    candidate: CandidateSection | None = None
    contexts: ContextBuckets = ()
    predicted: PredictedSection | None
    expected: ExpectedSection | None = None
    measured: MeasuredSection | None
    ablation: AblationSection | None = None
    search: SearchSection | None
    costs: CostsSection | None = None
    environment: EnvironmentSection | None

    def __repr__(self) -> str:
        if not self.enabled:
            return f"Profile({self.model.id!r}, off: {self.reason})"
        parts = [repr(self.model.id), self.drafting.method]
        if self.has_mask:
            parts.append(f"{len(self.skip_mask.skipped)} of {2 * self.model.layers} skipped")
        if self.measured is not None:
            parts.append(f"{self.measured.speedup.median:.2f}× measured")
        elif self.predicted is not None:
            parts.append(f"{self.predicted.speedup:.2f}× predicted")
        return f"Profile({', '.join(parts)})"

    __str__ = __repr__

    @model_validator(mode="after")
    def _mask_fits_the_method(self) -> Self:
        method = self.drafting.method
        needed = parse_method(method).method.needs_mask
        if self.mask and (self.mask.attention or self.mask.mlp) and self.candidate:
            raise wrong(self.candidate.model_dump(), "null: the profile has a mask", "candidate")
        if needed and self.mask is None:
            raise wrong(None, f"a mapping of keys to values: {method} needs a mask", "mask")
        for key in ("mask", "contexts"):
            if not needed and getattr(self, key):
                value = self.model_dump(mode="json", include={key})[key]
                raise wrong(value, f"null: {method} drafts without a mask", key)
        return self

    @model_validator(mode="after")
    def _layers_in_range(self) -> Self:
        last = self.model.layers - 1
        for key, mask in self._masks():
            for kind in KINDS:
                for layer in getattr(mask, kind):
                    if not 0 <= layer <= last:
                        raise wrong(layer, f"a layer from 0 to {last}", f"{key}.{kind}")
        for key, section in (("drafting", self.drafting), ("candidate", self.candidate)):
            for layer in () if section is None else section.int8_layers:
                if not 0 <= layer <= last:
                    raise wrong(layer, f"a layer from 0 to {last}", f"{key}.int8_layers")
        return self

    def _masks(self) -> Iterator[tuple[str, MaskSection | CandidateSection]]:
        """(key, what holds a mask) for each mask of the profile."""
        if self.mask is not None:
            yield "mask", self.mask
        if self.candidate is not None:
            yield "candidate", self.candidate
        for i, bucket in enumerate(self.contexts):
            yield f"contexts[{i}].mask", bucket.mask

    @model_validator(mode="after")
    def _contexts_ascend(self) -> Self:
        for i, (before, after) in enumerate(pairwise(self.contexts)):
            if after.min_context <= before.min_context:
                expected = (
                    f"a length above contexts[{i}].min_context, which is {before.min_context}"
                )
                raise wrong(after.min_context, expected, f"contexts[{i + 1}].min_context")
        return self

    @model_validator(mode="after")
    def _reason_when_disabled(self) -> Self:
        if not self.enabled and self.reason is None:
            raise wrong(None, "text that says why, since enabled is false", "reason")
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a profile; `builtin` names the one of the built-in model that is installed.

        Raises:
            ProfileError: no such file, not YAML, or not a profile; names key, value and what was
                expected.
        """
        name = str(path)
        return cls.parse(read_text(builtin_path() if name == BUILTIN else name), name)

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Read YAML text; `source` names it in errors. Raises as `load` does."""
        data = parse_yaml(text, source)
        if data is None:
            raise ProfileError(f"{source}: the file is empty", hint=SEARCH_AGAIN)
        if not isinstance(data, dict):
            raise ProfileError(
                f"{source}: the file holds {show(data)}, expected a mapping of keys to values",
                hint="a profile starts with 'schema: 1'",
            )
        check_schema(data, source)
        return validate(cls, data, source)

    @classmethod
    def build(
        cls,
        target: ModelIdentity,
        mask: SkipMask,
        *,
        method: str = "layer-skip",
        gamma: int,
        tau: float,
        draft_config: DraftConfig = UNCHANGED,
        enabled: bool = True,
        reason: str | None = None,
        contexts: Sequence[ContextBucketSection | Mapping[str, Any]] = (),
        predicted: PredictedSection | Mapping[str, Any] | None = None,
        predicted_of_candidate: PredictedSection | Mapping[str, Any] | None = None,
        candidate: Mapping[str, Any] | None = None,
        expected: ExpectedSection | Mapping[str, Any] | None = None,
        measured: MeasuredSection | Mapping[str, Any] | None = None,
        ablation: AblationSection | Mapping[str, Any] | None = None,
        search: SearchSection | Mapping[str, Any] | None = None,
        costs: CostsSection | Mapping[str, Any] | None = None,
        environment: EnvironmentSection | Mapping[str, Any] | None = None,
    ) -> Self:
        """A profile of this model; floats are rounded to four significant digits.

        Mask, γ, τ, draft config and `predicted_of_candidate` become the `candidate` where `method`
        drafts without a mask; `contexts` are then left out.

        Args:
            draft_config: what makes drafts cheaper in addition to the mask.
            candidate: the best mask found, as in the file; left out where `mask` skips anything.
            contexts: masks for longer texts, ascending, each as in the file:
                `{"min_context": 512, "mask": {…}, "drafting": {"gamma": 4, "tau": 0.2}, …}`.

        Raises:
            ProfileError: a value that does not fit the schema or the model.
        """
        sublayers = {"attention": mask.attention, "mlp": mask.mlp}
        tokenizer = target.tokenizer_fingerprint if draft_config.vocab_size else None
        settings = {"gamma": gamma, "tau": tau, **draft_config_keys(draft_config, tokenizer)}
        if parse_method(method).method.needs_mask:
            drafts: dict[str, Any] = {
                "mask": sublayers,
                "drafting": {"method": method, **settings},
                "contexts": tuple(contexts),
                "candidate": None if mask.skipped else candidate,
            }
        else:
            own = {**sublayers, **settings, "predicted": predicted_of_candidate}
            drafts = {
                "mask": None,
                "drafting": {"method": method, "gamma": None, "tau": None},
                "candidate": own if mask.skipped else candidate or own,
            }
        data = {
            "schema": SCHEMA,
            "enabled": enabled,
            "reason": reason,
            "model": model_facts(target),
            **drafts,
            "predicted": predicted,
            "expected": expected,
            "measured": measured,
            "ablation": ablation or None,
            "search": search,
            "costs": costs,
            "environment": environment,
        }
        return validate(cls, data, "profile")

    @classmethod
    def by_hand(
        cls,
        target: ModelIdentity,
        *,
        attention: Sequence[int] = (),
        mlp: Sequence[int] = (),
        gamma: int = 4,
        tau: float = 0.0,
    ) -> Self:
        """A `layer-skip` profile of a mask chosen by hand, without predictions or measurements.

        Raises:
            ProfileError: a layer out of range or given twice, γ < 1, or τ outside 0 … 1.
            UsageError: anything but numbers.
        """
        data = {
            "schema": SCHEMA,
            "model": model_facts(target),
            "mask": {
                "attention": tuple(whole_number("attention", layer) for layer in attention),
                "mlp": tuple(whole_number("mlp", layer) for layer in mlp),
            },
            "drafting": {
                "method": "layer-skip",
                "gamma": whole_number("gamma", gamma),
                "tau": real_number("tau", tau),
            },
            **dict.fromkeys(("predicted", "measured", "search", "environment")),
        }
        return validate(cls, data, "profile by hand")

    @property
    def has_mask(self) -> bool:
        """Whether there is a mask to draft with, the method's own or the candidate."""
        return self.mask is not None or self.candidate is not None

    @property
    def skip_mask(self) -> SkipMask:
        """The mask, else the candidate's, else the empty one."""
        section = self.mask or self.candidate
        if section is None:
            return SkipMask.empty(self.model.layers)
        return SkipMask.of(self.model.layers, section.attention, section.mlp)

    @property
    def draft_config(self) -> DraftConfig:
        """What makes drafts cheaper in addition to the mask; the candidate's without a mask."""
        return self._drafts.draft_config

    @property
    def _drafts(self) -> DraftingSection | CandidateSection:
        """How drafts with a mask are made: the method's own settings, else the candidate's."""
        return self.candidate if self.mask is None and self.candidate else self.drafting

    @property
    def draft_settings(self) -> tuple[DraftSettings, ...]:
        """How drafts with a mask are made, by length of text; the first from 0 tokens on."""
        section = self._drafts
        first = DraftSettings(
            0, self.skip_mask, section.gamma or 1, section.tau or 0.0, self.draft_config
        )
        return (first, *(self._settings(bucket) for bucket in self.contexts))

    def _settings(self, bucket: ContextBucketSection) -> DraftSettings:
        mask = SkipMask.of(self.model.layers, bucket.mask.attention, bucket.mask.mlp)
        drafting = bucket.drafting
        return DraftSettings(
            bucket.min_context, mask, drafting.gamma, drafting.tau, self.draft_config
        )

    def at(self, context: int) -> DraftSettings:
        """How drafts are made in a round that begins with `context` tokens, prompt included."""
        found = self.draft_settings
        return found[bisect_right(found, context, key=lambda each: each.min_context) - 1]

    def check_model(self, target: ModelIdentity) -> None:
        """Do nothing if this is the model that the profile was made for, with its tokenizer.

        Raises:
            ProfileError: it is another; names the first difference.
        """
        given = model_facts(target)
        for key in ("architecture", "layers", "fingerprint"):
            wanted, value = getattr(self.model, key), given[key]
            if value != wanted:
                raise ProfileError(
                    f"the profile is for another model: its model.{key} is {wanted}, "
                    f"this model's is {value}",
                    hint=SEARCH_AGAIN,
                )
        for key, section in (("drafting", self.drafting), ("candidate", self.candidate)):
            if section is not None and section.vocab is not None:
                check_vocabulary(section.vocab, f"{key}.vocab", target)

    def as_dict(self) -> dict[str, Any]:
        """Plain values under the keys of the file, in its order."""
        values = self.model_dump(mode="json", by_alias=True)
        if self.costs is not None:
            values["costs"] = self.costs.as_dict()
        if self.ablation is not None:
            values["ablation"] = {key: values["ablation"][key] for key in self.ablation.gains}
        if self.environment is not None and self.environment.memory is None:
            del values["environment"]["memory"]
        for section in filter(None, (values["drafting"], values["candidate"])):
            for key in OPTIONAL_DRAFTING:
                if section[key] in (None, []):
                    del section[key]
        return {k: v for k, v in values.items() if k not in OPTIONAL or v}

    def to_yaml(self, name: str = "profile.yaml") -> str:
        """The text that `save` writes; `name` is the file named in the comment on top."""
        body = yaml.dump(
            self.as_dict(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=sys.maxsize
        )
        return f"{header(self.model.id, name)}\n{body}"

    def save(self, path: str | Path) -> None:
        """Write the profile whole or not at all.

        Raises:
            OutputError: it could not be written; what stood there is untouched.
        """
        path = Path(path)
        write_atomically(path, self.to_yaml(path.name))
