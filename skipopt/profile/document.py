"""The profile as a whole: built, read, held against a model, and saved.

Knows nothing of how a mask is found or run.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, Self

import yaml
from pydantic import Field, model_validator

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import ProfileError
from skipopt.files import write_atomically
from skipopt.masks import KINDS, SkipMask
from skipopt.profile.checking import SCHEMA, check_schema, show, validate
from skipopt.profile.draft_settings import DraftSettings
from skipopt.profile.parts import (
    Buckets,
    ContextBucketSection,
    CostsSection,
    DraftConfigSection,
    Drafting,
    Environment,
    Mask,
    Measured,
    ModelSection,
    Part,
    Predicted,
    Search,
    Text,
    wrong,
)
from skipopt.profile.reading import SEARCH_AGAIN, parse_yaml, read_text
from skipopt.profile.writing import Dumper, header


class ModelIdentity(Protocol):
    """What a profile must know of a model to recognise it."""

    @property
    def model_id(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def architecture(self) -> str: ...
    @property
    def depth(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...


class Profile(Part):
    """Everything another machine needs to trust a mask, or to measure it anew.

    `predicted`, `measured`, `search` and `environment` are null in a profile made by hand; the
    keys must still be there, so that a file cut short never passes for one.

    `contexts` holds further masks, for when the text has grown: `mask` and `drafting` are those
    below the first `from`. A file without the key has one mask for every length. `costs` are
    those the search went by; they belong to the machine that `environment` describes.
    """

    schema_version: int = Field(alias="schema")
    enabled: bool = True
    reason: Text | None = None
    model: ModelSection
    mask: Mask
    drafting: Drafting
    contexts: Buckets = ()
    predicted: Predicted | None
    measured: Measured | None
    search: Search | None
    costs: CostsSection | None = None
    environment: Environment | None

    @model_validator(mode="after")
    def _layers_in_range(self) -> Self:
        last = self.model.layers - 1
        masks = {"mask": self.mask}
        masks |= {f"contexts[{i}].mask": each.mask for i, each in enumerate(self.contexts)}
        for key, mask in masks.items():
            for kind in KINDS:
                for layer in getattr(mask, kind):
                    if not 0 <= layer <= last:
                        raise wrong(layer, f"a layer from 0 to {last}", f"{key}.{kind}")
        return self

    @model_validator(mode="after")
    def _contexts_ascend(self) -> Self:
        for i, (before, after) in enumerate(pairwise(self.contexts)):
            if after.start <= before.start:
                expected = f"a length above contexts[{i}].from, which is {before.start}"
                raise wrong(after.start, expected, f"contexts[{i + 1}].from")
        return self

    @model_validator(mode="after")
    def _says_why_not(self) -> Self:
        if not self.enabled and self.reason is None:
            raise wrong(None, "text that says why, since enabled is false", "reason")
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a profile.

        Raises:
            ProfileError: no such file, not YAML, or not a profile; names key, value and what was
                expected.
        """
        name = str(path)
        return cls.parse(read_text(name), name)

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
        predicted: Predicted | Mapping[str, Any] | None = None,
        measured: Measured | Mapping[str, Any] | None = None,
        search: Search | Mapping[str, Any] | None = None,
        costs: CostsSection | Mapping[str, Any] | None = None,
        environment: Environment | Mapping[str, Any] | None = None,
    ) -> Self:
        """A profile of this model; floats are rounded to four digits.

        Args:
            levers: what makes drafts cheaper beside the mask.
            contexts: masks for longer texts, ascending, each as in the file:
                `{"from": 512, "mask": {…}, "drafting": {"gamma": 4, "tau": 0.2}, "predicted": …}`.

        Raises:
            ProfileError: a value that does not fit the schema or the model.
        """
        data = {
            "schema": SCHEMA,
            "enabled": enabled,
            "reason": reason,
            "model": model_facts(target),
            "mask": {"attention": mask.attention, "mlp": mask.mlp},
            "drafting": {
                "method": method,
                "gamma": gamma,
                "tau": tau,
                "draft_config": DraftConfigSection.of(draft_config) if draft_config else None,
            },
            "contexts": tuple(contexts),
            "predicted": predicted,
            "measured": measured,
            "search": search,
            "prices": costs,
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
        """A profile of a mask that somebody thought of; nothing is claimed about its speed.

        Raises:
            ProfileError: a layer out of range or given twice, γ < 1, or τ outside 0 … 1.
        """
        data = {
            "schema": SCHEMA,
            "model": model_facts(target),
            "mask": {"attention": tuple(attention), "mlp": tuple(mlp)},
            "drafting": {"method": "layer-skip", "gamma": gamma, "tau": tau},
            **dict.fromkeys(("predicted", "measured", "search", "environment")),
        }
        return validate(cls, data, "profile by hand")

    @property
    def skip_mask(self) -> SkipMask:
        return SkipMask.of(self.model.layers, self.mask.attention, self.mask.mlp)

    @property
    def draft_config(self) -> DraftConfig:
        facts = self.drafting.draft_config
        return UNCHANGED if facts is None else facts.draft_config

    @property
    def draftways(self) -> tuple[DraftSettings, ...]:
        """How drafts are made from which length on; the first from 0 on."""
        drafting = self.drafting
        first = DraftSettings(0, self.skip_mask, drafting.gamma, drafting.tau, self.draft_config)
        return (first, *(self._draftway(each) for each in self.contexts))

    def _draftway(self, bucket: ContextBucketSection) -> DraftSettings:
        mask = SkipMask.of(self.model.layers, bucket.mask.attention, bucket.mask.mlp)
        pace = bucket.drafting
        return DraftSettings(bucket.start, mask, pace.gamma, pace.tau, self.draft_config)

    def at(self, context: int) -> DraftSettings:
        """How drafts are made in a round that begins with `context` tokens of prompt and text."""
        ways = self.draftways
        return ways[bisect_right(ways, context, key=lambda way: way.start) - 1]

    def check_model(self, architecture: str, layers: int, fingerprint: str) -> None:
        """Do nothing if this is the model that the profile was made for.

        Raises:
            ProfileError: it is another; names the first difference.
        """
        given = {"architecture": architecture, "layers": layers, "fingerprint": fingerprint}
        for key, value in given.items():
            wanted = getattr(self.model, key)
            if value != wanted:
                raise ProfileError(
                    f"the profile is for another model: its model.{key} is {wanted}, "
                    f"this model's is {value}",
                    hint=SEARCH_AGAIN,
                )

    def as_dict(self) -> dict[str, Any]:
        """Plain values under the keys of the file, in its order."""
        values = self.model_dump(mode="json", by_alias=True)
        if not self.contexts:
            del values["contexts"]  # most profiles have none
        if not self.draft_config:
            del values["drafting"]["draft_config"]
        if self.costs is None:
            del values["prices"]  # nothing was priced
        else:
            values["prices"] = self.costs.as_dict()
        if self.environment is not None and self.environment.memory is None:
            del values["environment"]["memory"]  # of before it was told
        return values

    def to_yaml(self, name: str = "profile.yaml") -> str:
        """What `save` writes; `name` is the file that the comment on top speaks of."""
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


def model_facts(target: ModelIdentity) -> dict[str, Any]:
    """`model` of a profile, and of every other result."""
    return {
        "id": target.model_id,
        "revision": target.revision,
        "architecture": target.architecture,
        "layers": target.depth,
        "fingerprint": target.fingerprint,
    }
