"""Fixtures that several files of this folder use."""

from __future__ import annotations

import pytest
from support.architectures import FORMS, build

from skipopt.models.target import Target
from skipopt.runtime.load import make_target


@pytest.fixture(scope="module", params=FORMS)
def target(request: pytest.FixtureRequest) -> Target:
    return make_target(build(request.param), None, runtime="eager")
