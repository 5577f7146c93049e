"""A patch replaces the forward of an instance and restores the former one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from torch import nn

from skipopt.models.patch import Patch


def one(*args: Any) -> int:
    return 1


def two(*args: Any) -> int:
    return 2


@pytest.fixture
def plain() -> nn.Module:
    return nn.Identity()


@pytest.fixture
def hooked() -> nn.Module:
    """A module with a forward in its `__dict__`, as accelerate leaves it."""
    module = nn.Identity()
    vars(module)["forward"] = partial(type(module).forward, module)
    return module


def test_the_replacement_applies_inside_the_block_only(
    plain: nn.Module, hooked: nn.Module
) -> None:
    before = dict(vars(hooked))
    with Patch([(plain, one), (hooked, two)]):
        assert (plain(0), hooked(0)) == (1, 2)
    assert (plain(0), hooked(0)) == (0, 0)
    assert "forward" not in vars(plain)
    assert vars(hooked) == before


def test_an_error_inside_is_let_through_and_leaves_no_trace(
    plain: nn.Module, hooked: nn.Module
) -> None:
    own = vars(hooked)["forward"]
    with pytest.raises(KeyError, match="inside"), Patch([(plain, one), (hooked, one)]):
        raise KeyError("inside")
    assert "forward" not in vars(plain)
    assert vars(hooked)["forward"] is own


def test_a_patch_may_be_used_again(plain: nn.Module) -> None:
    patch = Patch([(plain, one)])
    for _ in range(3):
        with patch:
            assert plain(0) == 1
        assert plain(0) == 0


def test_the_forward_present_at_entry_is_restored(plain: nn.Module) -> None:
    patch = Patch([(plain, one)])
    with patch:
        pass
    plain.forward = two
    with patch:
        assert plain(0) == 1
    assert vars(plain)["forward"] is two


def test_patches_nest(plain: nn.Module) -> None:
    with Patch([(plain, one)]):
        with Patch([(plain, two)]):
            assert plain(0) == 2
        assert plain(0) == 1
    assert plain(0) == 0


def test_a_module_named_twice_is_restored(plain: nn.Module) -> None:
    with Patch([(plain, one), (plain, two)]):
        assert plain(0) == 2
    assert "forward" not in vars(plain)


def test_entering_a_patch_twice_is_refused(plain: nn.Module) -> None:
    patch = Patch([(plain, one)])
    with patch:
        with pytest.raises(RuntimeError, match="already applied"), patch:
            pass
        assert plain(0) == 1
    assert "forward" not in vars(plain)


def test_removing_a_replacement_inside_is_no_error(plain: nn.Module) -> None:
    with Patch([(plain, one)]):
        del plain.forward
    assert "forward" not in vars(plain)


def test_hooks_and_other_instances_are_left_alone(plain: nn.Module) -> None:
    seen: list[Any] = []
    plain.register_forward_hook(lambda module, args, output: seen.append(output))
    with Patch([(plain, one)]):
        plain(0)
        assert nn.Identity()(0) == 0
    assert seen == [1]


def test_a_patch_without_replacements_is_allowed() -> None:
    with Patch([]):
        pass
