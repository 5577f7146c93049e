"""The cache goes to a model under the name that its version of transformers has for it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from skipopt.models.text_states import cache_argument, cache_arguments


class Renamed:
    """As decoders are since transformers 5.24."""

    def forward(self, input_ids: Any, position_ids: Any = None, cache: Any = None) -> None: ...


class RenamedStates:
    """As models without keys and values are since then."""

    def forward(self, input_ids: Any, cache: Any = None, **others: Any) -> None: ...


class Earlier:
    def forward(
        self, input_ids: Any, position_ids: Any = None, past_key_values: Any = None
    ) -> None: ...


class EarlierWithoutPositions:
    """Positions are taken among the others, as by Bloom."""

    def forward(self, input_ids: Any, past_key_values: Any = None, **others: Any) -> None: ...


class EarlierStates:
    def forward(self, input_ids: Any, cache_params: Any = None, **others: Any) -> None: ...


@pytest.mark.parametrize(
    ("model", "name", "takes_positions"),
    [
        (Renamed, "cache", True),
        (RenamedStates, "cache", False),
        (Earlier, "past_key_values", True),
        (EarlierWithoutPositions, "past_key_values", True),
        (EarlierStates, "cache_params", False),
    ],
)
def test_the_name_and_positions_are_those_of_the_forward(
    model: type[Any], name: str, takes_positions: bool
) -> None:
    assert cache_argument(model()) == name
    found = cache_arguments(model(), "the cache", cast(Any, "positions"))
    assert found[name] == "the cache"
    assert ("position_ids" in found) == takes_positions


def test_generate_s_own_cache_is_known_by_every_name() -> None:
    """It is given to `custom_generate` empty, under the name of the version."""
    from skipopt.decoding.transformers_integration import KNOWN_ARGUMENTS

    assert {"cache", "past_key_values", "cache_params"} <= KNOWN_ARGUMENTS
