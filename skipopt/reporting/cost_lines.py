"""What a profile's prices come to, in plain steps. Prints nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from skipopt.cost_model.costs import Costs

if TYPE_CHECKING:
    from skipopt.profile.parts import CostsSection as Saved


def cost_lines(saved: Saved, gain: float) -> Iterator[tuple[str, str]]:
    """(label, words) line by line; all but the first go on from it, without a label.

    Args:
        gain: by what the profile's decoding is faster than plain decoding.
    """
    costs = _read(saved)
    plain = costs.plain
    yield (
        "prices",
        f"a plain step is {1e3 * plain:.2f} ms with {costs.context} tokens before it; of it, "
        f"an attention {costs.attention / plain:.1%}, an MLP {costs.mlp / plain:.1%}",
    )
    chains = {count: costs.verify[count - 1] for count in _doubled(len(costs.verify))}
    trees = dict(costs.verify_tree)
    told = f"; tree {_listed(trees, plain)}" if trees else ""
    yield "", f"in plain steps: verify {_listed(chains, plain)}{told}"
    if trees:
        # What this profile yields in the time that the tree's round takes.
        needed = {nodes: gain * seconds for nodes, seconds in trees.items()}
        yield "", f"a tree's tokens a round, draft apart, to be as fast: {_listed(needed, plain)}"
    # Both lengths that were measured are at least this far apart.
    longer = costs.at(2 * costs.context)
    if longer.plain > plain:
        yield "", f"at {longer.context} tokens a plain step costs {longer.plain / plain:.2f} times"


def _read(saved: Saved) -> Costs:
    values = saved.model_dump()
    return Costs(**{**values, "verify_tree": tuple(sorted(saved.verify_tree.items()))})


def _doubled(last: int) -> list[int]:
    """1, 2, 4, … and the last."""
    return sorted({2**power for power in range(last.bit_length())} | {last})


def _listed(seconds: dict[int, float], plain: float) -> str:
    """`1: 1.00, 4: 1.21`."""
    return ", ".join(f"{count}: {value / plain:.2f}" for count, value in seconds.items())
