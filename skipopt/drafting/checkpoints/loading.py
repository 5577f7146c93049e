"""Finds the checkpoint of a drafter: a user's file, or one that comes with the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from skipopt.errors import UsageError

if TYPE_CHECKING:
    from skipopt.models.target import Target


def find_checkpoint(target: Target, name: str, ships: Mapping[str, str], hint: str) -> str:
    """The path of a checkpoint.

    Args:
        name: a file, or one of the short names.
        ships: short names of checkpoints that come with the package.
        hint: shown if there is none for this model.

    Raises:
        UsageError: the short name of a checkpoint that is for another model.
    """
    from skipopt.drafting.checkpoints.checkpoint import shipped

    if name not in ships:
        return name
    found = shipped(ships[name], target)
    if found is None:
        raise UsageError(f"no {ships[name]} come with {target.model_id}", hint=hint)
    return str(found)
