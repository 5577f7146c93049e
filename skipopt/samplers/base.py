"""What a sampler is: it proposes skip masks and is told their values.

Knows nothing of models, prompts, journals or of what a value means.
"""

from __future__ import annotations

from typing import Protocol

from skipopt.masks import SkipMask


class BaseSampler(Protocol):
    """Proposes masks of one `MaskSpace` and learns from their values.

    Deterministic: the same seed and the same calls give the same masks, in any process.
    """

    def ask(self, count: int) -> list[SkipMask]:
        """Up to `count` distinct masks of the space, none of them asked or told before.

        Fewer, or none at all, only when the space holds no more that could win.
        """
        ...

    def tell(self, mask: SkipMask, value: float) -> None:
        """Learn that `mask` is worth `value`; higher is better.

        Takes masks that were never asked too: a resumed study replays its journal, and a start
        mask is fed, in this way. A value that is not finite only says "do not ask this again".
        """
        ...
