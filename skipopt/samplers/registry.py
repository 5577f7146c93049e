"""Samplers by name. Imports one only when it is asked for: some need heavy packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from skipopt.errors import UsageError
from skipopt.masks import MaskSpace
from skipopt.samplers.base import Sampler
from skipopt.samplers.dedup import Bound, Visited

if TYPE_CHECKING:
    from skipopt.samplers.context import Scene

# name: "module:factory", a factory taking (space, seed, visited=…)
_SAMPLERS = {
    "auto": "portfolio:AutoSampler",
    "random": "random:RandomSampler",
    "bayes": "bayes:BayesSampler",
    "tpe": "optuna_samplers:tpe",
    "gp": "optuna_samplers:gp",
    "flip": "local_search:FlipSampler",
    "probe": "leave_one_out:ProbeSampler",
    "greedy": "greedy:GreedySampler",
    "swift": "swift:SwiftSampler",
    "dp": "dp:DpSampler",
    "exhaustive": "exhaustive:ExhaustiveSampler",
}
SAMPLERS: Mapping[str, str] = MappingProxyType(_SAMPLERS)
NEED_SCENE = frozenset({"dp"})  # look at the model, and cannot do without
USE_SCENE = NEED_SCENE | {"auto"}  # look at the model if there is one; take scene=…


def make_sampler(
    name: str,
    space: MaskSpace,
    seed: int,
    scene: Scene | None = None,
    bound: Bound | None = None,
) -> Sampler:
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
    if name in NEED_SCENE and scene is None:
        raise UsageError(
            f"the sampler {name!r} looks at the model, and none was given",
            hint="pass scene=Scene(target, texts, prices), or use another sampler such as auto",
        )
    module, factory = SAMPLERS[name].split(":")
    extra: dict[str, Any] = {"scene": scene} if name in USE_SCENE else {}
    visited = Visited(space, Random(seed), bound)
    make = getattr(import_module(f"skipopt.study.{module}"), factory)
    return cast(Sampler, make(space, seed, visited=visited, **extra))
