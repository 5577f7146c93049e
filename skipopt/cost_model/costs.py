"""What decoding costs on one runtime, in seconds; measured by `bench.cost_measurement`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from skipopt.masks import SkipMask


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of draft steps and verification rounds at one context length.

    Attributes:
        overhead: a draft step with every layer skipped: embedding, head, token choice, host work.
        attention, mlp: one sublayer of a draft step.
        layer_overhead: what a layer costs beyond its two sublayers; saved when both are skipped.
        verify: `verify[n - 1]` is a round without its draft steps: the target's forward over n
            tokens, verification and host work; n = 1 … γ_max + 1.
        confidence: computing the confidence in a draft step; paid where τ > 0.
        context: tokens in the KV cache.
        relative_iqr: half the interquartile range of a plain step, divided by its median.
        verify_tree: pairs (nodes, seconds), ascending: `verify` for trees. The current token is a
            node, so a tree of n nodes is n tokens like `verify[n - 1]`. Empty if not measured.
        attention_per_token: seconds added to one attention sublayer of a draft step by each
            further token of context; 0 if not measured.
        verify_per_token: the same for a plain round.
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

    @property
    def plain(self) -> float:
        """Seconds of one plain decoding step."""
        return self.verify[0]

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
        """Predicted seconds of whole rounds with chains of 0, 1, … γ_max drafted tokens."""
        step = self.draft_step(mask, tau)
        return tuple(drafted * step + seconds for drafted, seconds in enumerate(self.verify))

    def tree(self, nodes: int) -> float | None:
        """Seconds of a round with a tree of `nodes` nodes, without drafting it.

        Interpolated linearly between one token and the measured sizes; None above the largest.
        """
        for (few, less), (many, more) in pairwise(((1, self.plain), *self.verify_tree)):
            if few <= nodes <= many:
                return less + (more - less) * (nodes - few) / (many - few)
        return None

    def at(self, context: int) -> Costs:
        """The costs with `context` tokens in the KV cache.

        Linear between two measured lengths, although captured steps read the cache in buckets
        (128, 192, 256, 384, … tokens) and therefore cost more in steps. Rounds of every size are
        assumed to grow as plain ones do. Texts shorter than the measured context get its costs:
        extrapolating downwards could give negative seconds.
        """
        more = max(0, context - self.context)
        longer = more * self.verify_per_token
        return replace(
            self,
            attention=self.attention + more * self.attention_per_token,
            verify=tuple(seconds + longer for seconds in self.verify),
            verify_tree=tuple((nodes, seconds + longer) for nodes, seconds in self.verify_tree),
            context=self.context + more,
        )
