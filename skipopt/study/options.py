"""Options of a search as keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypedDict

from skipopt.errors import UsageError
from skipopt.study.config import ObjectiveName, SearchConfig


class SearchOptions(TypedDict, total=False):
    """The fields of `SearchConfig` that `skipopt.search` takes as keyword arguments."""

    sampler: str
    objective: ObjectiveName
    skip_ratio: float | None
    keep_layers: Sequence[int]
    gamma: int | None
    tau: float | None
    search_space: Sequence[str] | None
    context_lengths: Sequence[int]
    trials: int | None
    timeout: float | None
    seed: int


def override(config: SearchConfig | None, options: Mapping[str, Any]) -> SearchConfig:
    """`config` (or the defaults) with some fields replaced.

    Raises:
        UsageError: an unknown field, or a value out of range.
    """
    known = [field.name for field in fields(SearchConfig)]
    for name in options:
        if name not in known:
            raise UsageError(
                f"a search has no option {name!r}", hint=f"options are {', '.join(known)}"
            )
    return replace(config or SearchConfig(), **options)
