"""Norms that change nothing once the branch that they belong to is left out."""

from __future__ import annotations

from torch import nn

from skipopt.masks import SublayerKind
from skipopt.models.layer_run import Branches, Changes, LayerRun, zeroed
from skipopt.models.sublayers import Sublayer, identity_norm


def norm_names(
    layer: nn.Module, run: LayerRun, branches: Branches
) -> dict[SublayerKind, tuple[str, ...]]:
    """By sublayer, the children that change nothing once its branches return zeros."""
    taken = {branch.module for kind in branches for branch in branches[kind]}
    names: dict[SublayerKind, tuple[str, ...]] = dict.fromkeys(branches, ())
    for kind in branches:
        if not (changes := zeroed({kind: branches[kind]})):
            continue
        expected = run(changes)
        names[kind] = tuple(
            name
            for name, module in layer.named_children()
            if module not in taken and run.equals(expected, [*changes, (module, identity_norm)])
        )
    return names


def proved_norms(
    layer: nn.Module, run: LayerRun, branches: tuple[Sublayer, ...], names: tuple[str, ...]
) -> tuple[nn.Module, ...]:
    """The children of these names, if this layer too returns the same without them."""
    modules = tuple(m for name in names if (m := getattr(layer, name, None)) is not None)
    if not modules or not branches:
        return ()
    changes: Changes = [(branch.module, branch.zeros) for branch in branches]
    without: Changes = [*changes, *((module, identity_norm) for module in modules)]
    return modules if run.equals(run(changes), without) else ()
