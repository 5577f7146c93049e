"""Samplers by name. Imports one only when it is asked for: some need heavy packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from skipopt.errors import UsageError
from skipopt.masks import MaskSpace
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import Bound, MaskRegistry

if TYPE_CHECKING:
    from skipopt.samplers.context import SamplerContext

# name: "module:factory", a factory taking (space, seed, visited=…)
_SAMPLERS = {
    "auto": "portfolio:PortfolioSampler",
    "random": "random:RandomSampler",
    "bayes": "bayes:BayesSampler",
    "tpe": "optuna_samplers:tpe",
    "gp": "optuna_samplers:gp",
    "local-search": "local_search:LocalSearchSampler",
    "leave-one-out": "leave_one_out:LeaveOneOutSampler",
    "greedy": "greedy:GreedySampler",
    "swift": "swift:SwiftSampler",
    "dp": "dp:DpSampler",
    "exhaustive": "exhaustive:ExhaustiveSampler",
}
SAMPLERS: Mapping[str, str] = MappingProxyType(_SAMPLERS)
NEED_CONTEXT = frozenset({"dp"})  # look at the model, and cannot do without
USE_CONTEXT = NEED_CONTEXT | {"auto"}  # look at the model if there is one; take sampler_context=…


def make_sampler(
    name: str,
    space: MaskSpace,
    seed: int,
    sampler_context: SamplerContext | None = None,
    bound: Bound | None = None,
) -> BaseSampler:
    """The sampler of that name over `space`.

    Args:
        scene: the model, for the samplers that look at it; the others leave it alone.
        bound: a value that a mask cannot exceed (`bounds.speed_bound`, where values are speedups
            under the same prices); masks that cannot win are then not asked.

    Raises:
        UsageError: no sampler has that name, or it needs a scene and none is given.
        SearchError: it cannot search this space, or needs a package that is not installed.
    """
    if name not in SAMPLERS:
        raise UsageError(
            f"there is no sampler {name!r}", hint=f"choose one of {', '.join(SAMPLERS)}"
        )
    if name in NEED_CONTEXT and sampler_context is None:
        raise UsageError(
            f"the sampler {name!r} looks at the model, and none was given",
            hint="pass sampler_context=SamplerContext(target, texts, costs), or use another "
            "sampler such as auto",
        )
    module, factory = SAMPLERS[name].split(":")
    extra: dict[str, Any] = {"sampler_context": sampler_context} if name in USE_CONTEXT else {}
    visited = MaskRegistry(space, Random(seed), bound)
    make = getattr(import_module(f"skipopt.samplers.{module}"), factory)
    return cast(BaseSampler, make(space, seed, visited=visited, **extra))
