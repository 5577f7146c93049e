"""The costs of a profile as lines of text, in plain steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from skipopt.cost_model.costs import Costs

if TYPE_CHECKING:
    from skipopt.profile.sections import CostsSection


def cost_lines(section: CostsSection, speedup: float) -> Iterator[tuple[str, str]]:
    """(label, words) of each line; a line without a label continues the one before.

    Args:
        speedup: of the profile's decoding over plain decoding.
    """
    costs = Costs.of(section)
    plain = costs.plain
    yield (
        "costs",
        f"a plain step takes {1e3 * plain:.2f} ms at {costs.context} tokens of context; one "
        f"attention is {costs.attention / plain:.1%} of it, one MLP {costs.mlp / plain:.1%}",
    )
    chains = {count: costs.verify[count - 1] for count in _doubled(len(costs.verify))}
    trees = dict(costs.verify_tree)
    of_trees = f"; tree {_listed(trees, plain)}" if trees else ""
    yield "", f"in plain steps: verify {_listed(chains, plain)}{of_trees}"
    if trees:
        # Tokens that this profile yields in the time of one round with the tree.
        needed = {nodes: speedup * seconds for nodes, seconds in trees.items()}
        tokens = _listed(needed, plain)
        yield "", f"tokens per round a tree needs (without its draft) to be as fast: {tokens}"
    # Growth with the context was measured between lengths that differ by at least this factor.
    longer = costs.at(2 * costs.context)
    if longer.plain > plain:
        times = f"{longer.plain / plain:.2f} times"
        yield "", f"at {longer.context} tokens of context a plain step takes {times} as long"


def _doubled(last: int) -> list[int]:
    """1, 2, 4, … and `last`."""
    return sorted({2**power for power in range(last.bit_length())} | {last})


def _listed(seconds: dict[int, float], plain: float) -> str:
    """Seconds as multiples of a plain step: `1: 1.00, 4: 1.21`."""
    return ", ".join(f"{count}: {value / plain:.2f}" for count, value in seconds.items())
