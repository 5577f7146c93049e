"""Which rows of a forward see which keys, as the masks that each architecture takes.

A tree needs a mask of its own: rows at the same depth share a position and must not see each
other. Knows nothing of drafts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from skipopt.errors import ModelError

Attention = Literal["full_attention", "sliding_attention"]
IMPLEMENTATIONS = ("sdpa", "eager")
KINDS: tuple[Attention, ...] = ("full_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class AttentionMaskFormat:
    """How a model wants to be told what rows see.

    Attributes:
        kinds: the kinds of attention among its layers.
        window: tokens that sliding attention looks back, itself included.
        by_kind: it takes a mapping with a mask for each kind.
        why_not: what stands in the way of masks of our own; None where nothing does.
    """

    kinds: frozenset[Attention]
    window: int | None
    by_kind: bool
    why_not: str | None

    def build(self, sees: Tensor, distance: Tensor, dtype: torch.dtype) -> Any:
        """Additive masks, the only kind that eager attention understands too.

        Args:
            sees: which keys each row attends to.  # (n, m) bool
            distance: position of the row − position of the key.  # (n, m)

        Raises:
            ModelError: the model takes no mask of ours.
        """
        if self.why_not is not None:
            raise ModelError(
                f"this model cannot verify a draft tree: {self.why_not}",
                hint="use a method that drafts chains: layer-skip, prompt-lookup",
            )
        masks = {kind: _additive(self._within(kind, sees, distance), dtype) for kind in self.kinds}
        return masks if self.by_kind else next(iter(masks.values()))

    def _within(self, kind: Attention, sees: Tensor, distance: Tensor) -> Tensor:
        if kind == "full_attention" or self.window is None:
            return sees
        return sees & (distance < self.window)


def attention_mask_format(model: Any) -> AttentionMaskFormat:
    """Read from the configuration."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        kinds = {"full_attention" if window is None else "sliding_attention"}
    known = frozenset(kind for kind in KINDS if kind in kinds)
    return AttentionMaskFormat(known, window, len(kinds) > 1, _obstacle(config, kinds))


def uses_causal_sdpa(model: Any) -> bool:
    """Does one causal mask serve every layer? Not with windows, ALiBi, or other attention code."""
    form = attention_mask_format(model)
    plain = form.why_not is None and form.kinds == {"full_attention"}
    config = model.config.get_text_config(decoder=True)
    windowless = getattr(config, "sliding_window", None) is None
    return plain and windowless and config._attn_implementation == "sdpa"


def _obstacle(config: Any, kinds: set[str]) -> str | None:
    if unknown := kinds - set(KINDS):
        return f"it has layers of {', '.join(sorted(unknown))}"
    if getattr(config, "alibi", False):
        return "its positions are ALiBi biases"
    if "local" in (getattr(config, "attention_layers", None) or ()):
        # GPT-Neo: whatever mask it is given.
        return "its local attention counts rows as they are stored"
    if config._attn_implementation not in IMPLEMENTATIONS:
        return f"its attention runs on {config._attn_implementation}"
    return None


def _additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
    return mask.masked_fill_(~sees, torch.finfo(dtype).min)[None, None]
