"""What things cost on the runtime that will run them, as values. Knows nothing of measuring."""

from __future__ import annotations

from dataclasses import dataclass

from skipopt.masks import SkipMask


@dataclass(frozen=True, slots=True)
class Prices:
    """Seconds of what decoding is made of, at one context length.

    Attributes:
        fixed: a draft step with every layer skipped: embedding, head, choice of the token, host.
        attention, mlp: one sublayer.
        layer: what a layer costs beyond its sublayers, saved when it is skipped whole.
        verify: `verify[n - 1]` = a round but for its draft steps: the whole model over n tokens,
            their verdict, the host's work; n = 1 … γ_max + 1.
        sureness: of a draft step, to tell how sure the draft is; only where τ > 0.
        context: tokens in the cache.
        spread: half the range between the quartiles of a plain step, as a share of it.
    """

    fixed: float
    attention: float
    mlp: float
    layer: float
    verify: tuple[float, ...]
    sureness: float = 0.0
    context: int = 0
    spread: float = 0.0

    @property
    def plain(self) -> float:
        """One plain step."""
        return self.verify[0]

    def draft_step(self, mask: SkipMask, tau: float = 0.0) -> float:
        """Predicted seconds of one draft step under `mask`."""
        attention, mlp = set(mask.attention), set(mask.mlp)
        return (
            self.fixed
            + self.attention * (mask.layers - len(attention))
            + self.mlp * (mask.layers - len(mlp))
            + self.layer * (mask.layers - len(attention & mlp))
            + self.sureness * (tau > 0)
        )
