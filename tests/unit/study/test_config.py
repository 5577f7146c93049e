"""The options of a search: defaults, checks, and overrides by keyword."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

import pytest

import skipopt
from skipopt.errors import UsageError
from skipopt.study.config import SearchConfig
from skipopt.study.options import SearchOptions, override
from skipopt.study.time_plan import TimePlan


def test_keyword_options_override_a_config() -> None:
    config = SearchConfig(trials=5, seed=3)
    found = override(config, {"trials": 7, "keep_layers": [0, -1]})
    assert (found.trials, found.seed, found.keep_layers) == (7, 3, (0, -1))
    assert override(None, {}) == SearchConfig()


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    target: Any = None
    with pytest.raises(UsageError, match="no option 'gama'") as refused:
        skipopt.search(target, gama=3)  # type: ignore[call-arg]
    assert "search_space" in (refused.value.hint or "")


def test_keyword_options_are_fields_of_the_config() -> None:
    assert set(get_type_hints(SearchOptions)) <= {field.name for field in fields(SearchConfig)}


@pytest.mark.parametrize(
    ("options", "limited", "deadlines"),
    [
        ({}, True, False),
        ({"trials": 5}, False, False),
        ({"timeout": 3.0}, True, True),
        ({"trials": 5, "timeout": 2}, True, True),
    ],
)
def test_only_a_number_of_trials_lifts_the_time_limit(
    options: dict[str, Any], limited: bool, deadlines: bool
) -> None:
    config = SearchConfig(**options)
    plan = TimePlan(config.timeout, config.longest_plan)
    assert plan.is_limited == limited
    assert plan.end.is_finite == deadlines


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0}, "gamma must be 1 or more"),
        ({"tau": 1.5}, "tau must lie in"),
        ({"trials": 0}, "trials must be 1 or more"),
        ({"timeout": 0}, "timeout must be finite and above 0"),
        ({"skip_ratio": 1.0}, "skip_ratio must lie between 0 and 1"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"drop_alpha": 0.0}, "drop_alpha must lie between 0 and 1"),
        ({"objective": "beauty"}, "unknown objective 'beauty'"),
        ({"sampler": "crystal-ball"}, "unknown sampler"),
        ({"objective": "matchness"}, "matchness is highest where nothing is skipped"),
        ({"context_lengths": (512, 100)}, "must ascend"),
        ({"methods": ("cascade",)}, "must include layer-skip"),
        ({"methods": ("layer-skip", "magic")}, "unknown method 'magic'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SearchConfig(**options)


def test_layers_that_do_not_exist_cannot_be_kept() -> None:
    config = SearchConfig(keep_layers=(0, -1))
    assert config.mask_space(3).frozen == {0, 1, 4, 5}
    with pytest.raises(UsageError, match="cannot keep layer 3: the model has 3 layers"):
        SearchConfig(keep_layers=(3,)).mask_space(3)
