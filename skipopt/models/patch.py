"""Replace `forward` on module instances, and other attributes; restore exactly what was there.

Masks and runtimes change a loaded model in this way only. An instance attribute leaves classes,
hooks and other models alone. A previous instance attribute (accelerate stores its hooks there) is
restored.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from skipopt.models.model_lock import ModelLock

if TYPE_CHECKING:
    from torch import nn

Forward = Callable[..., Any]
_ABSENT: Any = object()


class Setting(NamedTuple):
    """A value that an attribute of an object has while a patch is applied."""

    owner: Any
    name: str
    value: Any


class Patch:
    """A reusable set of (module, forward) replacements; `with patch:` applies and reverts them.

    Entering costs one dictionary write per module, so it can be done every round.

    Args:
        settings: other attributes to set meanwhile, such as a router's number of experts.
        key: equal for patches that do the same; None if no other patch does the same.
        active: a list of the patches applied at present, to which this one adds itself while it
            is applied.
        lock: held while it is applied.
    """

    __slots__ = ("_active", "_changes", "_lock", "_saved", "key")

    def __init__(
        self,
        changes: Iterable[tuple[nn.Module, Forward]],
        key: Hashable = None,
        active: list[Patch] | None = None,
        lock: ModelLock | None = None,
        settings: Iterable[Setting] = (),
    ) -> None:
        self.key = key
        self._lock = lock or ModelLock()
        self._active = active
        # Written into __dict__, since nn.Module.__setattr__ is ten times slower.
        self._changes = [
            *((module.__dict__, "forward", forward) for module, forward in changes),
            *((owner.__dict__, name, value) for owner, name, value in settings),
        ]
        self._saved: list[Any] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return not self._changes

    def __enter__(self) -> Patch:
        self._lock.__enter__()
        if self._saved is not None:
            self._lock.__exit__()
            raise RuntimeError("this patch is already applied")
        self._saved = [space.get(name, _ABSENT) for space, name, _ in self._changes]
        for space, name, value in self._changes:
            space[name] = value
        if self._active is not None:
            self._active.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        saved, self._saved = self._saved, None
        if self._active is not None:
            self._active.remove(self)
        for (space, name, _), before in zip(self._changes, saved or (), strict=True):
            if before is _ABSENT:
                space.pop(name, None)
            else:
                space[name] = before
        self._lock.__exit__()
