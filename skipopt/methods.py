"""Decoding methods by name, and how a method is written with options.

    lookahead:window=7:ngram=5        rsd-s:verify=match

Adding a drafter adds one line to `METHODS`. Options are the arguments of the constructor that a
method stands for; `read_options` turns their text into values.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from skipopt.errors import UsageError


@dataclass(frozen=True, slots=True)
class Method:
    """A decoding method.

    Attributes:
        drafter: `module:Class` below `skipopt.drafting`.
        what: a short description for tables and help.
        source: arXiv ids of the publications.
        needs_mask: it cannot draft without a profile's mask (or an exit layer, or a draft config).
        takes_draft_config: it drafts with a profile's draft config, and has its options.
    """

    drafter: str
    what: str
    source: str = ""
    needs_mask: bool = False
    takes_draft_config: bool = False


# The options that set a `DraftConfig`.
DRAFT_OPTIONS = ("quant", "head", "int8_layers", "vocab", "window", "experts")

METHODS: Mapping[str, Method] = {
    "plain": Method("plain:NoDrafter", "plain decoding, one token per forward"),
    "layer-skip": Method(
        "layer_skip:LayerSkipDrafter",
        "chain drafts under a skip mask",
        "2309.08168",
        needs_mask=True,
        takes_draft_config=True,
    ),
    "swift": Method(
        "swift:SwiftDrafter",
        "confidence-aware trees, mask tuned while decoding",
        "2410.06916",
        takes_draft_config=True,
    ),
    "prompt-lookup": Method("prompt_lookup:PromptLookupDrafter", "copies from the context"),
    "suffix": Method(
        "suffix:SuffixDrafter", "copies what most often followed in the context", "2411.04975"
    ),
    "token-recycling": Method(
        "token_recycling:TokenRecyclingDrafter",
        "trees of tokens that verification found likely before",
        "2408.08696",
    ),
    "jacobi": Method(
        "jacobi:JacobiDrafter", "a block of guesses, refined by each forward", "2305.10427"
    ),
    "lookahead": Method(
        "lookahead:LookaheadDrafter", "n-grams from a Jacobi window", "2402.02057"
    ),
    "blockwise": Method(
        "blockwise:BlockwiseDrafter", "trained output heads", "1811.03115, 2401.10774"
    ),
    "spec-drafter": Method(
        "spec_drafter:SpecDrafter", "trained mask tokens, drafted in one pass", "2203.16487"
    ),
    "rsd-c": Method(
        "rsd_c:ConstantTreeDrafter",
        "trees without replacement, constant branching",
        "2402.14160",
        needs_mask=True,
        takes_draft_config=True,
    ),
    "rsd-s": Method(
        "rsd_s:BeamTreeDrafter",
        "trees without replacement, stochastic beam search",
        "2402.14160",
        needs_mask=True,
        takes_draft_config=True,
    ),
    "cascade": Method(
        "cascade:CascadeDrafter",
        "copies, layer skip and recycled tokens, as far as each is expected to gain",
        "2510.26843",
        needs_mask=True,
        takes_draft_config=True,
    ),
}


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method and its options as a user wrote them; `str()` writes them back."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def method(self) -> Method:
        return METHODS[self.name]

    @property
    def needs_mask(self) -> bool:
        """An exit layer takes the place of a mask; options of a `DraftConfig` need none."""
        return self.method.needs_mask and not self.options.keys() & {"exit_layer", *DRAFT_OPTIONS}

    @property
    def takes_draft_config(self) -> bool:
        """Whether a profile's draft config applies: not with an exit layer instead of its mask."""
        return self.method.takes_draft_config and "exit_layer" not in self.options


def parse_method(text: str) -> MethodSpec:
    """`NAME` or `NAME:KEY=VALUE:KEY=VALUE…`.

    Raises:
        UsageError: no such method, or an option that is not KEY=VALUE or is given twice.
    """
    name, *parts = text.split(":")
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}", hint=f"use one of {', '.join(METHODS)}")
    options: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (equals and re.fullmatch(r"[a-z][a-z0-9_]*", key) and value):
            raise UsageError(
                f"{part!r} in {text!r} is not an option", hint=f"write it as {name}:KEY=VALUE"
            )
        if key in options:
            raise UsageError(f"{text!r} has the option {key!r} twice", hint="leave one out")
        options[key] = value
    return MethodSpec(name, options)


def option_parameters(
    made: Callable[..., object], given: Collection[str] = ()
) -> dict[str, inspect.Parameter]:
    """The parameters of a constructor that users may set: all but those in `given`."""
    parameters = inspect.signature(made).parameters
    return {name: each for name, each in parameters.items() if name not in given}


def read_options(
    owner: str,
    options: Mapping[str, str],
    made: Callable[..., object],
    given: Collection[str] = (),
) -> dict[str, Any]:
    """The values of options, by the annotations of the constructor that takes them.

    `yes` and `no` are switches, `3-2-1` several numbers (`none`: no number), else `none` is None
    where None is allowed.

    Args:
        owner: what error messages call the constructor.
        given: parameters that are no options.

    Raises:
        UsageError: an unknown option, or a value of the wrong type.
    """
    from pydantic import ValidationError, create_model

    known = option_parameters(made, given)
    check_known(owner, options, known)
    # pydantic resolves the annotations, which are strings, in the constructor's module.
    fields: dict[str, Any] = {key: (known[key].annotation, ...) for key in options}
    model = create_model("Options", __module__=made.__module__, **fields)
    kinds = {key: model.model_fields[key].annotation for key in options}
    try:
        read = model(**{key: _in_parts(text, kinds[key]) for key, text in options.items()})
    except ValidationError as failure:
        key = str(failure.errors(include_url=False)[0]["loc"][0])
    else:
        return {key: getattr(read, key) for key in options}
    raise UsageError(
        f"{owner}: {key} is {options[key]!r}, expected {_expected(kinds[key])}",
        hint=f"its default: {key}={_as_text(known[key].default)}",
    )


def check_known(
    owner: str, options: Mapping[str, str], known: Mapping[str, inspect.Parameter]
) -> None:
    """Raise UsageError for the first option that is not known."""
    for key in options:
        if key not in known:
            shown = ", ".join(f"{name}={_as_text(p.default)}" for name, p in known.items())
            raise UsageError(
                f"{owner} has no option {key!r}", hint=f"its options: {shown or 'none'}"
            )


def _in_parts(text: str, kind: Any) -> str | list[str] | None:
    """The text as pydantic reads it: `none` and several numbers are written in our own way."""
    if text == "none" and NoneType in get_args(kind):
        return None
    if get_origin(kind) is tuple:
        return [] if text == "none" else text.split("-")
    return text


def _as_text(value: object) -> str:
    """As a user writes the value of an option."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "-".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _expected(kind: Any) -> str:
    """What a value of this type looks like."""
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return "numbers like 3-2-1"
    if parts := get_args(kind):
        return " or ".join("none" if part is NoneType else _expected(part) for part in parts)
    return {bool: "yes or no", int: "a whole number", float: "a number"}.get(kind, "text")
