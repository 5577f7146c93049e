"""Samplers by name, and the packages that some need."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from skipopt.errors import UsageError
from skipopt.masks import MaskSpace
from skipopt.samplers.registry import NEED_PACKAGE, make_sampler


class Old(ModuleType):
    """A package of before numpy 2."""

    def __getattr__(self, name: str) -> object:
        raise AttributeError("module 'numpy' has no attribute 'int'")


@pytest.mark.parametrize("name", ["bayes", "swift"])
@pytest.mark.parametrize("is_old", [True, False])
def test_a_package_that_does_not_load_is_named_before_the_search(
    name: str, is_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, package = NEED_PACKAGE[name]
    top = module.partition(".")[0]
    monkeypatch.setitem(sys.modules, top, Old(top) if is_old else None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(UsageError, match=f"needs {package}") as refused:
        make_sampler(name, MaskSpace(4), 0)
    assert package in str(refused.value.hint)
