"""Where what a drafter learned lies: a user's file, or one that ships for the built-in model.

Knows nothing of what is in the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from skipopt.errors import UsageError

if TYPE_CHECKING:
    from skipopt.models.target import Target


def find_checkpoint(target: Target, name: str, ships: Mapping[str, str], hint: str) -> str:
    """The path of a file, or of the shipped one that `name` stands for.

    Args:
        ships: short names, and the artefacts they stand for.
        hint: what a user of another model should do.

    Raises:
        UsageError: the short name of an artefact that ships for another model only.
    """
    from skipopt.drafting.checkpoints.checkpoint import shipped

    if name not in ships:
        return name
    found = shipped(ships[name], target)
    if found is None:
        raise UsageError(f"no {ships[name]} come with {target.model_id}", hint=hint)
    return str(found)
