"""Fixtures that several files of this folder use."""

from __future__ import annotations

import pytest
from support.tiny import (
    tiny_target,
)
from support.training import (
    KINDS,
    Kind,
)

from skipopt.models.target import Target


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target()


@pytest.fixture(params=KINDS, ids=["heads", "mask-tokens"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found
