"""Numbers of options: of any library, in their range, and Python's own afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skipopt.cli.check import check_numbers
from skipopt.decoding.options import ChatOptions, DecodingOptions
from skipopt.errors import UsageError
from skipopt.option_values import real_number, whole_number
from skipopt.sampling import MIN_TEMPERATURE, SamplingOptions, TokenSampler
from skipopt.study.config import SearchConfig


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_of_any_library(value: object) -> None:
    found = whole_number("trials", value)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", [3, np.float32(3), np.int64(3), 3.0])
def test_real_numbers_of_any_library(value: object) -> None:
    found = real_number("tau", value)
    assert (found, type(found)) == (3.0, float)


@pytest.mark.parametrize("value", [2.5, "3", None, True, np.float64(3), torch.tensor([1, 2]), [3]])
def test_anything_else_is_no_whole_number(value: object) -> None:
    with pytest.raises(UsageError, match="top-k must be a whole number, not"):
        whole_number("top_k", value)


@pytest.mark.parametrize("value", ["3", None, False, torch.tensor([1.0, 2.0])])
def test_anything_else_is_no_number(value: object) -> None:
    with pytest.raises(UsageError, match="tau must be a number, not"):
        real_number("tau", value)


def test_options_hold_numbers_of_python() -> None:
    sampling = SamplingOptions(np.float32(0.5), np.int64(4), np.float32(0.5), np.int64(7))  # type: ignore[arg-type]
    assert list(map(type, (sampling.temperature, sampling.top_k, sampling.seed))) == [
        float,
        int,
        int,
    ]
    assert type(DecodingOptions(max_new_tokens=np.int64(4)).max_new_tokens) is int
    config = SearchConfig(trials=np.int64(5), keep_layers=np.array([1]), tau=np.float32(0.5))  # type: ignore[arg-type]
    assert (config.trials, config.keep_layers, config.tau) == (5, (1,), 0.5)
    assert [type(each) for each in (config.trials, *config.keep_layers)] == [int, int]


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 0, -1])
def test_a_time_is_finite_and_above_0(seconds: float) -> None:
    with pytest.raises(UsageError, match="timeout must be finite and above 0 seconds"):
        SearchConfig(timeout=seconds)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0, -1])
def test_numbers_of_a_check_are_finite_and_above_0(value: float) -> None:
    for name, numbers in (("timeout", (1.0, value)), ("min-speedup", (value, 1.0))):
        with pytest.raises(UsageError, match=f"{name} must be finite and above 0"):
            check_numbers(*numbers)


@pytest.mark.parametrize("temperature", [1e-40, 1e-300, 0.99 * MIN_TEMPERATURE])
def test_a_temperature_is_0_or_keeps_logits_finite(temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature must be 0 or at least 1e-05"):
        SamplingOptions(temperature)


@pytest.mark.parametrize("coupled", [True, False])
def test_the_lowest_temperature_takes_the_most_likely_token(coupled: bool) -> None:
    options = SamplingOptions(MIN_TEMPERATURE)
    sampler = TokenSampler(options, torch.device("cpu"), coupled)
    logits = torch.tensor([[-1e4, 5.0, 1e4, 9e3]])
    assert sampler.probabilities(logits).tolist() == [[0, 0, 1, 0]]
    assert sampler.choose(logits, [3]) == [2]


@pytest.mark.parametrize("gamma", [{"gamma": 257}, {"max_gamma": 257}, {"gamma": 2**64}])
def test_a_search_measures_no_endless_verifications(gamma: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="gamma must be 1 to 256"):
        SearchConfig(**gamma)


def test_a_short_description_has_what_is_not_as_by_default() -> None:
    assert repr(DecodingOptions()) == "DecodingOptions()"
    chat = ChatOptions(method="suffix", stop="a")
    assert repr(chat) == "ChatOptions(method='suffix', stop=('a',))"
    assert repr(SearchConfig(trials=4)) == "SearchConfig(trials=4)"
