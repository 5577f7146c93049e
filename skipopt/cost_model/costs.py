"""What things cost on the runtime that will run them, as values. Knows nothing of measuring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from skipopt.masks import SkipMask


@dataclass(frozen=True, slots=True)
class Costs:
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
        verify_tree: (nodes, the same as `verify` for a tree of so many), ascending. The current
            token is a node, so that as many tokens go in as with a chain of that length. Empty
            where trees were not measured.
        attention_per_token: of one attention sublayer in a draft step, for each token of context
            more; 0 where nothing is known.
        verify_per_token: the same of a plain round.
    """

    fixed: float
    attention: float
    mlp: float
    layer: float
    verify: tuple[float, ...]
    sureness: float = 0.0
    context: int = 0
    spread: float = 0.0
    verify_tree: tuple[tuple[int, float], ...] = ()
    attention_per_token: float = 0.0
    verify_per_token: float = 0.0

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

    def tree(self, nodes: int) -> float | None:
        """Seconds of a round with a tree of so many nodes, but for its draft.

        On straight lines between one token and the sizes that were measured; None beyond the
        largest of them.
        """
        for (few, less), (many, more) in pairwise(((1, self.plain), *self.verify_tree)):
            if few <= nodes <= many:
                return less + (more - less) * (nodes - few) / (many - few)
        return None

    def at(self, context: int) -> Costs:
        """Those with so many tokens in the cache.

        On the straight line between two lengths that were measured, while captured steps read
        the cache in lengths of 128, 192, 256, 384, …, and so cost more by steps. Rounds of every
        size are taken to grow as plain ones do. A text shorter than the one that was measured is
        priced like it: a line drawn backwards might end below nothing.
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
