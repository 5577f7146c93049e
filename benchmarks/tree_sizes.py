"""Which tree of so many tokens is worth most? Draft trees of equal size, sampled.

    python benchmarks/tree_sizes.py --profile results/earlier-profile.yaml

Trees are drawn by the layer-skip draft at places of texts that plain sampling wrote after
held-out prompts; the target reads each tree once. What recursive rejection sampling would accept
of it is then computed exactly, as an expectation over its coins, so that chance is left in the
drawing of trees alone. Every tree is drawn at the same places, equally often.

- *with replacement*: siblings drawn independently (SpecInfer's trees);
- *rsd-c*: without replacement, constant branching (arXiv 2402.14160);
- *rsd-s*: without replacement, stochastic beam search (the same).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor

import skipopt
from skipopt.benchmarking.records import environment_of
from skipopt.decoding import run_target
from skipopt.drafting.protocol import Drafter, DraftState
from skipopt.drafting.rsd_c import ConstantTreeDrafter
from skipopt.drafting.rsd_s import BeamTreeDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.drafting.without_replacement import Level
from skipopt.generation import generate
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.prompts import load_prompts
from skipopt.runtime.engine import Engine
from skipopt.sampling import Sampler, SamplingOptions

RESAMPLES = 2000
# Tokens: branching of constant trees, (width, depth) of beams.
SIZES: dict[int, tuple[list[tuple[int, ...]], list[tuple[int, int]]]] = {
    6: ([(2, 2), (2, 1, 1), (3, 1)], [(3, 2), (2, 3)]),
    12: ([(4, 2), (3, 1, 1, 1), (2, 1, 1, 1, 1, 1)], [(4, 3), (3, 4), (2, 6)]),
    30: ([(2, 2, 2, 2), (2, 2, 2, 1, 1)], [(10, 3), (6, 5), (5, 6)]),
}


class Independent(ConstantTreeDrafter):
    """Siblings drawn with replacement."""

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        return replace(super().propose(state, limit), kind="independent")

    def _choose(self, step: int, level: Level) -> list[tuple[int, int]]:
        assert level.rows is not None
        drawn = torch.multinomial(level.rows, self.branching[step], replacement=True)
        return [(i, token) for i, row in enumerate(drawn.tolist()) for token in row]


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    target = skipopt.load(given.model)
    mask = Profile.load(given.profile).skip_mask
    places = sampled_places(target, given.places, given.temperature)
    found = {}
    for size in given.sizes:
        drafters = trees_of(size, target, mask)
        found[size] = compare(target, drafters, places, given)
    report(given, target, mask, found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--profile", default="configs/builtin.yaml")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--places", type=int, default=200)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--output", type=Path, default=Path("results/tree-sizes"))
    return parser.parse_args()


def trees_of(size: int, target: Target, mask: SkipMask) -> dict[str, Drafter]:
    constant, beams = SIZES[size]
    drafters: dict[str, Drafter] = {}
    for branching in constant:
        name = "-".join(map(str, branching))
        drafters[f"with replacement {name}"] = Independent(target, mask, branching)
        drafters[f"rsd-c {name}"] = ConstantTreeDrafter(target, mask, branching)
    for width, depth in beams:
        drafters[f"rsd-s {width}×{depth}"] = BeamTreeDrafter(target, mask, width, depth)
    return drafters


def sampled_places(target: Target, count: int, temperature: float) -> list[list[int]]:
    """Beginnings of sampled texts: the prompt and 4, 12, 20, … tokens after it."""
    places = []
    for prompt in load_prompts().held_out:
        ids = target.tokenizer(prompt.text)["input_ids"]
        written = generate(target, ids, max_new_tokens=44, temperature=temperature, seed=1)
        text = [*ids, *(token.id for token in written)]
        places += [text[:end] for end in range(len(ids) + 4, len(text), 8)]
    order = np.random.default_rng(0).permutation(len(places))
    return [places[i] for i in order[:count]]


def compare(
    target: Target,
    drafters: dict[str, Drafter],
    places: Sequence[Sequence[int]],
    given: argparse.Namespace,
) -> dict[str, list[float]]:
    """Expected tokens of a target forward at each place, mean over draws."""
    found: dict[str, list[float]] = {name: [] for name in drafters}
    for number, place in enumerate(places):
        engine = Engine(target, len(place) + 64)
        engine.prefill(place[:-1])
        options = SamplingOptions(temperature=given.temperature, seed=number)
        sampler = Sampler(options, target.device, coupled=False)
        state = DraftState(list(place), engine, sampler)
        for name, drafter in drafters.items():
            worth = [1 + expected_accepted(state, drafter) for _ in range(given.draws)]
            found[name].append(mean(worth))
    return found


def expected_accepted(state: DraftState, drafter: Drafter) -> float:
    """Of one tree, drawn now."""
    start = state.engine.position
    tree = drafter.propose(state, 16)
    logits = run_target(state, tree)
    state.engine.rewind(start)
    q = state.sampler.probabilities(logits).double()
    return _below(tree, tree.children(), q, -1)


def _below(tree: DraftTree, children: dict[int, list[int]], q: Tensor, node: int) -> float:
    """Expected accepted tokens below a node that was accepted; −1 is the current token."""
    if node not in children:
        return 0.0
    residual, p = q[node + 1].clone(), tree.rows[node].double().clone()
    reached, worth = 1.0, 0.0
    for child in children[node]:
        token = tree.tokens[child]
        chance = min(1.0, float(residual[token] / p[token])) if p[token] > 0 else 0.0
        worth += reached * chance * (1 + _below(tree, children, q, child))
        reached *= 1 - chance
        residual = (residual - p).clamp(min=0)
        if reached <= 0 or float(residual.sum()) <= 0:
            break
        residual /= residual.sum()
        if tree.kind == "without-replacement":
            p[token] = 0
            if float(p.sum()) <= 0:
                break
            p /= p.sum()
    return worth


def report(
    given: argparse.Namespace,
    target: Target,
    mask: SkipMask,
    found: dict[int, dict[str, list[float]]],
) -> None:
    environment = environment_of(target)
    lines = [
        "# Draft trees of equal size\n",
        f"`python benchmarks/tree_sizes.py {given.model} --profile {given.profile} "
        f"--threads {given.threads} --temperature {given.temperature} --places {given.places} "
        f"--draws {given.draws}`\n",
        *(f"- {key}: {value}" for key, value in environment.items()),
        f"\nMask `{mask}`; {given.places} places of texts sampled at temperature "
        f"{given.temperature} after held-out prompts, {given.draws} trees each.\n",
        "| tree size | tree | tokens per target forward | the best rsd-s less this, paired |",
        "|---|---|---|---|",
    ]
    for size, trees in found.items():
        best = max((n for n in trees if n.startswith("rsd-s")), key=lambda n: mean(trees[n]))
        for name, values in sorted(trees.items(), key=lambda item: -mean(item[1])):
            low, high = interval(np.array(trees[best]) - np.array(values))
            versus = "–" if name == best else f"{low:+.3f} to {high:+.3f}"
            lines.append(f"| {size} | {name} | {mean(values):.3f} | {versus} |")
    record = {"environment": environment, "mask": str(mask), "trees": found}
    given.output.with_suffix(".json").write_text(json.dumps(record) + "\n")
    given.output.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap over places of the mean difference."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.quantile(differences[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
