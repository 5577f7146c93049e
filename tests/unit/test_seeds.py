"""Which seeds are taken: the same ones everywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from skipopt.decoding.options import DecodingOptions
from skipopt.errors import UsageError
from skipopt.masks import MaskSpace
from skipopt.online.config import OnlineConfig
from skipopt.samplers.registry import NEED_CONTEXT, SAMPLERS, make_sampler
from skipopt.sampling import MAX_SEED, SamplingOptions
from skipopt.study.config import SearchConfig
from skipopt.training.loop import TrainConfig

MAKERS: dict[str, Callable[[int], object]] = {
    "sampling": lambda seed: SamplingOptions(1.0, seed=seed),
    "decoding": lambda seed: DecodingOptions(seed=seed),
    "search": lambda seed: SearchConfig(seed=seed),
    "online": lambda seed: OnlineConfig(seed=seed),
    "training": lambda seed: TrainConfig(1.0, 1e-3, seed=seed),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_seed_that_no_generator_takes_is_refused(maker: str) -> None:
    for seed in (-1, MAX_SEED + 1, 10**30):
        with pytest.raises(UsageError, match=r"a seed must lie in 0 … 2\^63 - 1, not"):
            MAKERS[maker](seed)
    MAKERS[maker](MAX_SEED)


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - set(NEED_CONTEXT)))
def test_every_sampler_of_masks_takes_the_largest_seed(sampler: str) -> None:
    masks = make_sampler(sampler, MaskSpace(4), MAX_SEED).ask(2)
    assert masks
    assert all(mask.layers == 4 for mask in masks)
