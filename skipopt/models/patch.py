"""Replace `forward` on module instances, and put back exactly what was there.

The one mechanism by which masks and runtimes change a loaded model. An instance attribute is
used because it leaves classes, hooks and other models alone; the previous instance attribute
(accelerate stores its hooks there) is restored, not merely deleted.
Knows nothing of masks or weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Forward = Callable[..., Any]
_ABSENT: Any = object()


class Patch:
    """A reusable set of (module, forward) replacements; `with patch:` applies and undoes them.

    Entering costs one dictionary write per module, so it may be done every round.

    Args:
        key: what the replacements amount to; the same for patches that do the same. None: no
            other patch does what this one does.
        active: the patches applied at present; this one is in it while it is applied.
    """

    __slots__ = ("_active", "_changes", "_saved", "key")

    def __init__(
        self,
        changes: Iterable[tuple[nn.Module, Forward]],
        key: Hashable = None,
        active: list[Patch] | None = None,
    ) -> None:
        self.key = key
        self._active = active
        # Written straight into __dict__: nn.Module.__setattr__ is ten times slower.
        self._changes = [(module.__dict__, forward) for module, forward in changes]
        self._saved: list[Any] | None = None

    def __enter__(self) -> Patch:
        if self._saved is not None:
            raise RuntimeError("this patch is already applied")
        self._saved = [space.get("forward", _ABSENT) for space, _ in self._changes]
        for space, forward in self._changes:
            space["forward"] = forward
        if self._active is not None:
            self._active.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        saved, self._saved = self._saved, None
        if self._active is not None:
            self._active.remove(self)
        for (space, _), before in zip(self._changes, saved or (), strict=True):
            if before is _ABSENT:
                space.pop("forward", None)
            else:
                space["forward"] = before
