"""Costs of decoding on one runtime, in seconds; measured by `bench.cost_measurement`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from skipopt.masks import SkipMask

if TYPE_CHECKING:
    from skipopt.profile.sections import CostsSection


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of draft steps and verification rounds at one context length.

    Attributes:
        overhead: a draft step with every layer skipped: embedding, head, token choice, host work.
        attention, mlp: one sublayer of a draft step.
        layer_overhead: the rest of a layer, without its two sublayers; saved if both are skipped.
        verify: `verify[n - 1]` is a round without its draft steps: the target's forward over n
            tokens, verification and host work; n = 1 … γ_max + 1.
        confidence: computing the confidence in a draft step; paid where τ > 0.
        context: tokens in the KV cache.
        relative_iqr: half the interquartile range of a plain step, divided by its median.
        verify_tree: pairs (nodes, seconds), ascending: `verify` for trees. The current token is a
            node, so a tree of n nodes is n tokens like `verify[n - 1]`. Empty if not measured.
        attention_per_token: seconds that one more token of context adds to one attention sublayer
            of a draft step; 0 if not measured.
        verify_per_token: seconds that one more token adds to a plain round; 0 if not measured.
    """

    overhead: float
    attention: float
    mlp: float
    layer_overhead: float
    verify: tuple[float, ...]
    confidence: float = 0.0
    context: int = 0
    relative_iqr: float = 0.0
    verify_tree: tuple[tuple[int, float], ...] = ()
    attention_per_token: float = 0.0
    verify_per_token: float = 0.0

    @classmethod
    def of(cls, section: CostsSection) -> Costs:
        """Those that a profile holds."""
        trees = tuple(sorted(section.verify_tree.items()))
        return cls(**{**section.model_dump(), "verify_tree": trees})

    @property
    def plain(self) -> float:
        """Seconds of one plain decoding step."""
        return self.verify[0]

    def verification(self, tokens: int) -> float:
        """Seconds of a round of so many tokens without its draft.

        Beyond the measured ones, it grows as it does on average from one token to the most.
        """
        most = len(self.verify)
        if tokens <= most:
            return self.verify[tokens - 1]
        slope = (self.verify[-1] - self.plain) / max(1, most - 1)
        return self.verify[-1] + (tokens - most) * slope

    def draft_step(self, mask: SkipMask, tau: float = 0.0) -> float:
        """Predicted seconds of one draft step under `mask` with threshold `tau`."""
        attention, mlp = set(mask.attention), set(mask.mlp)
        return (
            self.overhead
            + self.attention * (mask.layers - len(attention))
            + self.mlp * (mask.layers - len(mlp))
            + self.layer_overhead * (mask.layers - len(attention & mlp))
            + self.confidence * (tau > 0)
        )

    def chain_rounds(self, mask: SkipMask, tau: float = 0.0) -> tuple[float, ...]:
        """Predicted seconds of whole rounds with 0, 1, … γ_max drafted tokens in a chain."""
        step = self.draft_step(mask, tau)
        return tuple(drafted * step + seconds for drafted, seconds in enumerate(self.verify))

    def tree(self, nodes: int) -> float | None:
        """Seconds of a round with a tree of `nodes` nodes, without the draft.

        Linear between one token and the measured sizes; None above the largest size.
        """
        for (n0, seconds0), (n1, seconds1) in pairwise(((1, self.plain), *self.verify_tree)):
            if n0 <= nodes <= n1:
                return seconds0 + (seconds1 - seconds0) * (nodes - n0) / (n1 - n0)
        return None

    def at(self, context: int) -> Costs:
        """The costs with `context` tokens in the KV cache.

        Growth is linear, although captured steps read the cache in buckets (128, 192, 256, 384, …
        tokens) and their costs therefore grow in steps. Rounds of every size are assumed to grow
        by as many seconds as plain ones. Below the measured context its costs are returned, since
        extrapolation to shorter contexts could give negative seconds.
        """
        more_tokens = max(0, context - self.context)
        more_seconds = more_tokens * self.verify_per_token
        return replace(
            self,
            attention=self.attention + more_tokens * self.attention_per_token,
            verify=tuple(seconds + more_seconds for seconds in self.verify),
            verify_tree=tuple((n, seconds + more_seconds) for n, seconds in self.verify_tree),
            context=self.context + more_tokens,
        )
