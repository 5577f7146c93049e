"""Samplers by name. Each is imported only when asked for, because some need heavy packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from math import inf
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from skipopt.errors import UsageError
from skipopt.masks import MaskSpace
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MaskRegistry, UpperBound

if TYPE_CHECKING:
    from skipopt.samplers.context import SamplerContext

# name: "module:factory", each a `SamplerFactory`
SAMPLERS: Mapping[str, str] = MappingProxyType(
    {
        "auto": "portfolio:PortfolioSampler",
        "random": "random:RandomSampler",
        "bayes": "bayes:BayesSampler",
        "tpe": "optuna_samplers:tpe_sampler",
        "gp": "optuna_samplers:gp_sampler",
        "greedy": "greedy:GreedySampler",
        "local-search": "local_search:LocalSearchSampler",
        "leave-one-out": "leave_one_out:LeaveOneOutSampler",
        "swift": "swift:SwiftSampler",
        "dp": "dp:DpSampler",
        "exhaustive": "exhaustive:ExhaustiveSampler",
    }
)
NEED_CONTEXT = frozenset({"dp"})  # run the model, and cannot search without one
USE_CONTEXT = NEED_CONTEXT | {"auto"}  # run the model if there is one; take `context` too


# Modules of other packages that a sampler needs once it has a few values.
NEED_PACKAGE = {
    "bayes": ("skopt.acquisition", "scikit-optimize"),
    "swift": ("sklearn.gaussian_process", "scikit-learn"),
}


class SamplerFactory(Protocol):
    """Makes a sampler that claims its masks in `registry`."""

    def __call__(self, space: MaskSpace, seed: int, registry: MaskRegistry) -> BaseSampler: ...


def make_sampler(
    name: str,
    space: MaskSpace,
    seed: int,
    context: SamplerContext | None = None,
    bound: UpperBound | None = None,
    floor: float = -inf,
) -> BaseSampler:
    """The sampler of that name over `space`.

    Args:
        context: the model, for the samplers that run it; the others ignore it.
        bound: a value that a mask cannot exceed, as `upper_bound.speed_bound` where values are
            speedups under the same costs. Masks whose bound is below the best value are skipped.
        floor: a value that is reached without any of these masks; counts as a best value.

    Raises:
        UsageError: no sampler has that name, or it needs a context and none is given.
        SearchError: it cannot search this space.
    """
    factory = sampler_factory(name, context)
    return factory(space, seed, MaskRegistry(space, Random(seed), bound, floor))


def sampler_factory(name: str, context: SamplerContext | None = None) -> SamplerFactory:
    """The sampler of that name, to be made over any space.

    Raises:
        UsageError: as `make_sampler`.
    """
    if name not in SAMPLERS:
        raise UsageError(
            f"there is no sampler {name!r}", hint=f"choose one of {', '.join(SAMPLERS)}"
        )
    if name in NEED_CONTEXT and context is None:
        raise UsageError(
            f"the sampler {name!r} runs the model, and none was given",
            hint="pass context=SamplerContext(target, texts, costs), or use another sampler such "
            "as auto",
        )
    check_package(name)
    module, attribute = SAMPLERS[name].split(":")
    factory: Callable[..., BaseSampler] = getattr(
        import_module(f"skipopt.samplers.{module}"), attribute
    )
    return partial(factory, context=context) if name in USE_CONTEXT else factory


def check_package(name: str) -> None:
    """Check before a search that the package loads which a sampler needs.

    Raises:
        UsageError: it does not; an old one may raise anything.
    """
    if name not in NEED_PACKAGE:
        return
    module, package = NEED_PACKAGE[name]
    try:
        import_module(module)
    except Exception as error:
        raise UsageError(
            f"the sampler {name!r} needs {package}, which does not load: {error}",
            hint=f"pip install --upgrade {package}, or leave out --sampler",
        ) from None
