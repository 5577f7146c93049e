"""Samplers by name. Imports one only when it is asked for: some need heavy packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import cast

from skipopt.errors import UsageError
from skipopt.masks import MaskSpace
from skipopt.searching.protocol import Sampler

# name: "module:factory", a factory taking (space, seed)
_SAMPLERS = {
    "auto": "auto:AutoSampler",
    "random": "random_masks:RandomSampler",
    "bayes": "bayes:BayesSampler",
    "tpe": "optuna_samplers:tpe",
    "gp": "optuna_samplers:gp",
    "flip": "flip:FlipSampler",
    "probe": "probe:ProbeSampler",
    "exhaustive": "exhaustive:ExhaustiveSampler",
}
SAMPLERS: Mapping[str, str] = MappingProxyType(_SAMPLERS)


def make_sampler(name: str, space: MaskSpace, seed: int) -> Sampler:
    """The sampler of that name over `space`.

    Raises:
        UsageError: no sampler has that name.
        SearchError: it cannot search this space, or needs a package that is not installed.
    """
    if name not in SAMPLERS:
        raise UsageError(
            f"there is no sampler {name!r}", hint=f"choose one of {', '.join(SAMPLERS)}"
        )
    module, factory = SAMPLERS[name].split(":")
    made = getattr(import_module(f"skipopt.searching.{module}"), factory)(space, seed)
    return cast(Sampler, made)
