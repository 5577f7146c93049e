"""Fixtures that several files of this folder use."""

from __future__ import annotations

import pytest
from support import drafter_contract
from support.drafters import Bench


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(drafter_contract.small_target(), tmp_path_factory.mktemp("llama"))
