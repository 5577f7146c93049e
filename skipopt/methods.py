"""The ways to decode by name: where each drafter lives, and how a method is written with options.

    lookahead:window=7:ngram=5        rsd-s:verify=match

Adding a drafter adds one line to `METHODS`. Knows nothing of drafters: names and texts only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from skipopt.errors import UsageError


@dataclass(frozen=True, slots=True)
class Method:
    """One way to decode.

    Attributes:
        drafter: `module:Class` below `skipopt.drafting`.
        what: a few words for tables and help.
        source: where it was published.
        needs_mask: it cannot draft without a profile's mask (or an exit layer).
        takes_levers: it drafts with a profile's levers, which others know nothing of.
    """

    drafter: str
    what: str
    source: str = ""
    needs_mask: bool = False
    takes_draft_config: bool = False


METHODS: Mapping[str, Method] = {
    "plain": Method("plain:NoDrafter", "one token at a time"),
    "layer-skip": Method(
        "layer_skip:LayerSkipDrafter",
        "chain drafts under a mask",
        "2309.08168",
        needs_mask=True,
        takes_draft_config=True,
    ),
    "swift": Method(
        "swift:SwiftDrafter", "confidence-aware trees, mask tuned on the fly", "2410.06916"
    ),
    "prompt-lookup": Method("prompt_lookup:PromptLookupDrafter", "copies from the context"),
    "jacobi": Method("jacobi:JacobiDrafter", "refines a block of guesses", "2305.10427"),
    "lookahead": Method(
        "lookahead:LookaheadDrafter", "n-grams from a Jacobi window", "2402.02057"
    ),
    "blockwise": Method(
        "blockwise:BlockwiseDrafter", "trained output heads", "1811.03115, 2401.10774"
    ),
    "spec-drafter": Method(
        "spec_drafter:SpecDrafter", "trained [M] tokens, drafted in one pass", "2203.16487"
    ),
    "rsd-c": Method(
        "rsd_c:ConstantTreeDrafter",
        "trees without replacement, constant branching",
        "2402.14160",
        needs_mask=True,
    ),
    "rsd-s": Method(
        "rsd_s:BeamTreeDrafter",
        "trees without replacement, stochastic beam search",
        "2402.14160",
        needs_mask=True,
    ),
    "cascade": Method(
        "cascade:CascadeDrafter",
        "prompt lookup or layer skip, by live expected gain",
        "2510.26843",
        needs_mask=True,
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
        """An exit layer is a mask, too, and levers need none."""
        return self.method.needs_mask and not self.options.keys() & {"exit", "draft_config"}

    @property
    def takes_draft_config(self) -> bool:
        """A profile's: they go with its mask, and not with an exit asked for in its place."""
        return self.method.takes_draft_config and "exit" not in self.options


def parse_method(text: str) -> MethodSpec:
    """`NAME` or `NAME:KEY=VALUE:KEY=VALUE…`.

    Raises:
        UsageError: no such method, or an option that is not KEY=VALUE.
    """
    name, *parts = text.split(":")
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}", hint=f"use one of {', '.join(METHODS)}")
    options: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (equals and re.fullmatch(r"[a-z_]+", key) and value):
            raise UsageError(
                f"{part!r} in {text!r} is no option", hint=f"write it as {name}:KEY=VALUE"
            )
        options[key] = value
    return MethodSpec(name, options)
