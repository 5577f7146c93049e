"""The order in which all masks are proposed."""

from __future__ import annotations

from skipopt.masks import MaskSpace
from skipopt.samplers.registry import make_sampler


def test_the_exhaustive_sampler_begins_with_the_sparsest() -> None:
    counts = [len(mask.skipped) for mask in make_sampler("exhaustive", MaskSpace(3), 0).ask(64)]
    assert counts == sorted(counts)
