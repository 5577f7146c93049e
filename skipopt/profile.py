"""The profile: a mask with its γ and τ, for which model, how fast, and how it was found; as YAML.

Knows nothing of how a mask is found or run: it holds, checks, reads and writes the facts.
"""

from __future__ import annotations

import difflib
import json
import math
import shlex
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from skipopt.errors import ProfileError, UsageError
from skipopt.files import write_atomically
from skipopt.masks import KINDS, SkipMask
from skipopt.methods import METHODS, parse_method

SCHEMA = 1
SEARCH_AGAIN = "search again: skipopt search"


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


def _four_digits(value: float) -> float:
    """Four significant digits, and every digit before the point.

    Rounded where a value enters and not where it is printed, so that a saved profile is read
    back equal and drafts with the τ it was measured with.
    """
    if value == 0:
        return 0.0
    return round(value, max(0, 3 - math.floor(math.log10(abs(value)))))


def _wrong(value: object, expected: str, key: str = "") -> PydanticCustomError:
    """An error of our own, in the parts that every message here is made of."""
    context = {"value": value, "expected": expected, "key": key}
    return PydanticCustomError("profile", "expected {expected}", context)


def _each_once(layers: tuple[int, ...]) -> tuple[int, ...]:
    for layer in layers:
        if layers.count(layer) > 1:
            raise _wrong(layer, "each layer once")
    return tuple(sorted(layers))


def _known_method(name: str) -> str:
    try:
        parse_method(name)
    except UsageError:
        raise _wrong(name, f"one of {', '.join(METHODS)}") from None
    return name


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1), AfterValidator(_four_digits)]
Positive = Annotated[float, Field(gt=0), AfterValidator(_four_digits)]
Seconds = Annotated[float, Field(ge=0), AfterValidator(_four_digits)]
# YAML knows lists only, so the tuple itself cannot be strict; its numbers are.
Layers = Annotated[tuple[int, ...], Field(strict=False), AfterValidator(_each_once)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelFacts(_Part):
    """Which model the mask was found for."""

    id: Text
    revision: Text | None
    architecture: Text
    layers: Annotated[int, Field(ge=1)]
    fingerprint: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]+$")]


class Mask(_Part):
    """Zero-based layers whose sublayer is skipped while drafting, ascending."""

    attention: Layers
    mlp: Layers


class Drafting(_Part):
    """Method, draft length γ and stop threshold τ."""

    method: Annotated[str, AfterValidator(_known_method)]
    gamma: Annotated[int, Field(ge=1)]
    tau: Share


class Predicted(_Part):
    """What replaying the traces promised; matchness is null where no mask drafts."""

    speedup: Positive
    acceptance_rate: Share | None
    matchness: Share | None


class Interval(_Part):
    """A paired median with its 95 % bootstrap interval."""

    median: Positive
    low: Positive
    high: Positive


class Measured(_Part):
    """What real decoding on held-out prompts gave; speeds in tokens per second."""

    speedup: Interval
    acceptance_rate: Share | None
    block_efficiency: Positive
    plain_tokens_per_second: Positive
    tokens_per_second: Positive
    lossless: Literal["exact", "within-margin", "failed"]


class Search(_Part):
    """How the mask was found; null for `breaks_even_after_tokens` means never."""

    sampler: Text
    objective: Literal["speed", "matchness"]
    trials: Count
    seconds: Seconds
    seed: int
    prompts: Text
    breaks_even_after_tokens: Count | None


class Environment(_Part):
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


class Profile(_Part):
    """Everything another machine needs to trust a mask, or to measure it anew.

    `predicted`, `measured`, `search` and `environment` are null in a profile made by hand; the
    keys must still be there, so that a file cut short never passes for one.
    """

    schema_version: int = Field(alias="schema")
    enabled: bool = True
    reason: Text | None = None
    model: ModelFacts
    mask: Mask
    drafting: Drafting
    predicted: Predicted | None
    measured: Measured | None
    search: Search | None
    environment: Environment | None

    @model_validator(mode="after")
    def _layers_in_range(self) -> Self:
        last = self.model.layers - 1
        for kind in KINDS:
            for layer in getattr(self.mask, kind):
                if not 0 <= layer <= last:
                    raise _wrong(layer, f"a layer from 0 to {last}", f"mask.{kind}")
        return self

    @model_validator(mode="after")
    def _says_why_not(self) -> Self:
        if not self.enabled and self.reason is None:
            raise _wrong(None, "text that says why, since enabled is false", "reason")
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a profile.

        Raises:
            ProfileError: no such file, not YAML, or not a profile; names key, value and what was
                expected.
        """
        name = str(path)
        return cls.parse(_read_text(name), name)

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Read YAML text; `source` names it in errors. Raises as `load` does."""
        data = _parse_yaml(text, source)
        if data is None:
            raise ProfileError(f"{source}: the file is empty", hint=SEARCH_AGAIN)
        if not isinstance(data, dict):
            raise ProfileError(
                f"{source}: the file holds {_show(data)}, expected a mapping of keys to values",
                hint="a profile starts with 'schema: 1'",
            )
        _check_schema(data, source)
        return _validate(cls, data, source)

    @classmethod
    def build(
        cls,
        target: ModelIdentity,
        mask: SkipMask,
        *,
        method: str = "layer-skip",
        gamma: int,
        tau: float,
        enabled: bool = True,
        reason: str | None = None,
        predicted: Predicted | Mapping[str, Any] | None = None,
        measured: Measured | Mapping[str, Any] | None = None,
        search: Search | Mapping[str, Any] | None = None,
        environment: Environment | Mapping[str, Any] | None = None,
    ) -> Self:
        """A profile of this model; floats are rounded to four digits.

        Raises:
            ProfileError: a value that does not fit the schema or the model.
        """
        data = {
            "schema": SCHEMA,
            "enabled": enabled,
            "reason": reason,
            "model": _model_facts(target),
            "mask": {"attention": mask.attention, "mlp": mask.mlp},
            "drafting": {"method": method, "gamma": gamma, "tau": tau},
            "predicted": predicted,
            "measured": measured,
            "search": search,
            "environment": environment,
        }
        return _validate(cls, data, "profile")

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
            "model": _model_facts(target),
            "mask": {"attention": tuple(attention), "mlp": tuple(mlp)},
            "drafting": {"method": "layer-skip", "gamma": gamma, "tau": tau},
            **dict.fromkeys(("predicted", "measured", "search", "environment")),
        }
        return _validate(cls, data, "profile by hand")

    @property
    def skip_mask(self) -> SkipMask:
        return SkipMask.of(self.model.layers, self.mask.attention, self.mask.mlp)

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
        return self.model_dump(mode="json", by_alias=True)

    def to_yaml(self, name: str = "profile.yaml") -> str:
        """What `save` writes; `name` is the file that the comment on top speaks of."""
        body = yaml.dump(
            self.as_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=sys.maxsize
        )
        return f"{_header(self.model.id, name)}\n{body}"

    def save(self, path: str | Path) -> None:
        """Write the profile whole or not at all.

        Raises:
            OutputError: it could not be written; what stood there is untouched.
        """
        path = Path(path)
        write_atomically(path, self.to_yaml(path.name))


def read_skip_layers(spec: str) -> tuple[list[int], list[int]]:
    """(attention layers, MLP layers) of `FILE#name`, a `skip_layers.json` of the literature.

    The format of Draft & Verify (arXiv 2309.08168) and SWIFT (arXiv 2410.06916):
    `{"name": {"attention": [...], "mlp": [...]}}`. It says nothing of the model, so the layers
    become a profile by `Profile.by_hand`.

    Raises:
        ProfileError: no such file or name, not JSON, or not lists of layer numbers.
    """
    file, _, name = spec.rpartition("#")
    if not file or not name:
        raise ProfileError(
            f"{spec!r} names no entry of a skip_layers file", hint="write it as FILE#name"
        )
    entries = _parse_json(_read_text(file), file)
    if not isinstance(entries, dict):
        raise ProfileError(
            f"{file}: the file holds {_show(entries)}, expected a mapping of names to masks",
            hint='it should read {"name": {"attention": [...], "mlp": [...]}}',
        )
    if name not in entries:
        names = ", ".join(map(str, entries)) or "none at all"
        raise ProfileError(f"{file} has no entry {name!r}", hint=f"the entries are: {names}")
    mask = _validate(Mask, entries[name], f"{file}#{name}")
    return list(mask.attention), list(mask.mlp)


# Reading


def _read_text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ProfileError(
            f"there is no file {name!r}", hint="`skipopt search` makes a profile"
        ) from None
    except IsADirectoryError:
        raise ProfileError(
            f"{name!r} is a folder, expected a file", hint="name the file inside it"
        ) from None
    except UnicodeDecodeError:
        raise ProfileError(f"{name}: the file is not text (UTF-8)", hint=SEARCH_AGAIN) from None
    except OSError as error:
        raise ProfileError(
            f"cannot read {name!r}: {error.strerror}", hint="check the file's permissions"
        ) from None


class _Loader(yaml.SafeLoader):
    """YAML without what hides mistakes: a key given twice, or one whose value is not there."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, value in node.value:
            if problem := _entry_problem(key, value, seen):
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _entry_problem(key: yaml.Node, value: yaml.Node, seen: set[str]) -> str | None:
    if not isinstance(key, yaml.ScalarNode):
        return "a key that is a list or a mapping"
    if key.tag != "tag:yaml.org,2002:str":
        return f"the key {key.value!r} is not text"
    if key.value in seen:
        return f"the key {key.value!r} is there twice"
    # YAML takes nothing for null, which would let a file pass that was cut after a colon.
    if isinstance(value, yaml.ScalarNode) and not value.value and value.style is None:
        return f"the key {key.value!r} has no value (write null for none)"
    return None


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ProfileError(
            f"{source}: {line}{error.problem or error.context}", hint="correct that line"
        ) from None
    except yaml.reader.ReaderError as error:
        line_number = text.count("\n", 0, error.position) + 1
        raise ProfileError(
            f"{source}: line {line_number}: a character that YAML does not allow",
            hint="correct that line",
        ) from None
    except (RecursionError, ValueError) as error:
        # A ValueError: a scalar that looks like a date or a number, and is none.
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ProfileError(f"{source}: {problem}", hint=SEARCH_AGAIN) from None


def _parse_json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ProfileError(
            f"{source}: line {error.lineno}: {error.msg}", hint="correct that line"
        ) from None
    except RecursionError:
        raise ProfileError(f"{source}: nested too deeply", hint="see FILE#name") from None


# Checking


def _model_facts(target: ModelIdentity) -> dict[str, Any]:
    return {
        "id": target.model_id,
        "revision": target.revision,
        "architecture": target.architecture,
        "layers": target.depth,
        "fingerprint": target.fingerprint,
    }


def _check_schema(data: Mapping[Any, Any], source: str) -> None:
    """First of all, since a newer schema makes every other complaint misleading."""
    version = data.get("schema")
    if type(version) is int and version > SCHEMA:
        raise ProfileError(
            f"{source}: schema is {version}, but this skipopt reads schema {SCHEMA} only",
            hint="upgrade skipopt, or search again with this one",
        )
    if type(version) is not int or version != SCHEMA:
        what = f"schema is {_show(version)}" if "schema" in data else "schema is missing"
        raise ProfileError(f"{source}: {what}, expected {SCHEMA}", hint=SEARCH_AGAIN)


Checked = TypeVar("Checked", bound=_Part)


def _validate(kind: type[Checked], data: Any, source: str) -> Checked:
    try:
        return kind.model_validate(data)
    except ValidationError as failure:
        errors = failure.errors(include_url=False)
    # A misspelt key shows up twice, as unknown and as missing; the unknown one explains both.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    message, hint = _explain(first, kind)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    raise ProfileError(f"{source}: {message}{more}", hint=hint)


def _explain(error: ErrorDetails, kind: type[BaseModel]) -> tuple[str, str]:
    """(message, hint) of one of pydantic's complaints."""
    context = error.get("ctx", {})
    key = context.get("key") or _dotted(error["loc"]) or "the whole"
    value = context.get("value", error["input"])
    if error["type"] == "missing":
        return f"{key} is missing", f"the file may be cut short; {SEARCH_AGAIN}"
    if error["type"] == "extra_forbidden":
        return f"{key} is {_show(value)}, but there is no such key", _suggest(error["loc"], kind)
    expected = _expected(error["type"], context)
    return f"{key} is {_show(value)}, expected {expected}", _remedy(expected, value)


def _dotted(location: Sequence[int | str]) -> str:
    """`mask.attention[0]`."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in location)
    return "".join(parts).lstrip(".")


def _expected(kind: str, context: Mapping[str, Any]) -> str:
    if kind == "literal_error":
        return "one of " + str(context["expected"]).replace("'", "").replace(" or ", ", ")
    words = {
        "profile": "{expected}",
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "string_type": "text",
        "string_too_short": "text that is not empty",
        "string_pattern_mismatch": "'sha256:' and hexadecimal digits",
        "bool_type": "true or false",
        "tuple_type": "a list of layer numbers",
        "model_type": "a mapping of keys to values",
        "greater_than": "a number above {gt}",
        "greater_than_equal": "a number of at least {ge}",
        "less_than_equal": "a number of at most {le}",
    }
    return words.get(kind, f"something else ({kind})").format_map(context)


def _remedy(expected: str, value: object) -> str:
    if expected == "text":
        return "put it in quotes"
    if isinstance(value, str) and expected.endswith("number"):
        return "write it without quotes, as 12 or 0.5 (YAML takes 1e-3 for text)"
    return f"correct it by hand, or {SEARCH_AGAIN}"


def _suggest(location: Sequence[int | str], kind: type[BaseModel]) -> str:
    """The key that was meant, or all there are."""
    names = _keys_at(location[:-1], kind)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"the keys here are {', '.join(names)}"


def _keys_at(location: Sequence[int | str], kind: type[BaseModel]) -> list[str]:
    for part in location:
        annotation = kind.model_fields[str(part)].annotation
        options = (annotation, *getattr(annotation, "__args__", ()))
        kind = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return [field.alias or name for name, field in kind.model_fields.items()]


def _show(value: object) -> str:
    """A value as YAML would have it, on one line and not long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    brief = Repr()
    brief.maxstring = brief.maxother = 60
    return " ".join(brief.repr(value).split())


# Writing


class _Dumper(yaml.SafeDumper):
    """A line for each value: deeper than section and key, everything stays on that line."""

    def serialize(self, node: yaml.Node) -> None:
        for _, section in node.value:
            inner = section.value if isinstance(section, yaml.MappingNode) else ()
            for _, value in inner:
                if isinstance(value, yaml.CollectionNode):
                    value.flow_style = True
        super().serialize(node)


def _header(model: str, name: str) -> str:
    command = shlex.join(["skipopt", "run", model, "--profile", name])
    if not command.isprintable():  # a line break would end the comment
        command = "skipopt run MODEL --profile FILE"
    return (
        "# A skipopt profile: which sublayers a model skips while it drafts, and how far ahead.\n"
        f"# Use it: {command}"
    )
