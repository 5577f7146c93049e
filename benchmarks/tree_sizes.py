"""Tokens per target forward of draft trees with equal numbers of tokens, when sampling.

    python -m benchmarks.tree_sizes --profile results/earlier-profile.yaml

Trees are drawn by the masked draft at positions of texts that plain sampling wrote after held-out
prompts; the target verifies each tree once. The number of tokens that recursive rejection sampling
accepts is then computed exactly, as an expectation over its random decisions, so that only the
drawing of trees is random. Every shape is drawn equally often at the same positions, and its n-th
tree from the same noise.

- *rsd-c*: siblings without replacement, constant branching (arXiv 2402.14160);
- *rsd-s*: without replacement, stochastic beam search (the same paper);
- *with replacement*: siblings drawn independently, constant branching (SpecInfer's trees). The
  distinct tokens among independent draws, in order, are draws without replacement, and the subtree
  of a token does not depend on how often the token was drawn. So each tree of rsd-c is evaluated a
  second time, as an expectation over the number of draws that repeat an earlier sibling. The two
  results differ only by the repeats.

Intervals are bootstrapped over prompts, because positions of one prompt are not independent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor

import skipopt
from benchmarks.result_files import environment_lines, write_results
from skipopt.decoding.api import generate
from skipopt.decoding.loop import run_target
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.rsd_c import ConstantTreeDrafter
from skipopt.drafting.rsd_s import BeamTreeDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.measurement.provenance import environment_of
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.prompts import load_prompts
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions, TokenSampler

RESAMPLES = 2000
# Tokens: branching of constant trees, (width, depth) of beams.
SIZES: dict[int, tuple[list[tuple[int, ...]], list[tuple[int, int]]]] = {
    6: ([(2, 2), (2, 1, 1), (3, 1)], [(3, 2), (2, 3)]),
    12: ([(4, 2), (3, 1, 1, 1), (2, 1, 1, 1, 1, 1)], [(4, 3), (3, 4), (2, 6)]),
    30: ([(2, 2, 2, 2), (2, 2, 2, 1, 1)], [(10, 3), (6, 5), (5, 6)]),
}


WITH = "with replacement"  # evaluated from the trees of rsd-c


@dataclass(frozen=True, slots=True)
class Position:
    """The beginning of a text, and the number of its prompt."""

    prompt: int
    tokens: list[int]


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    target = skipopt.load(given.model)
    mask = Profile.load(given.profile).skip_mask
    positions = sampled_positions(target, given.positions, given.texts, given.temperature)
    found = {}
    for size in given.sizes:
        drafters = trees_of(size, target, mask)
        found[size] = compare(target, drafters, positions, given)
        print(f"trees of {size} are done", flush=True)
    report(given, target, mask, [position.prompt for position in positions], found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--profile", default="builtin")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--positions", type=int, default=200)
    parser.add_argument("--texts", type=int, default=1, help="sampled after each prompt")
    parser.add_argument("--draws", type=int, default=4, help="trees of each shape at a position")
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--output", type=Path, default=Path("results/tree-sizes"))
    return parser.parse_args()


def trees_of(size: int, target: Target, mask: SkipMask) -> dict[str, Drafter]:
    constant, beams = SIZES[size]
    drafters: dict[str, Drafter] = {}
    for branching in constant:
        drafters[f"rsd-c {'-'.join(map(str, branching))}"] = ConstantTreeDrafter(
            target, mask, branching
        )
    for width, depth in beams:
        drafters[f"rsd-s {width}×{depth}"] = BeamTreeDrafter(target, mask, width, depth)
    return drafters


def sampled_positions(
    target: Target, count: int, texts: int, temperature: float
) -> list[Position]:
    """Beginnings of sampled texts: the prompt and 4, 12, 20, … tokens."""
    positions = []
    for number, prompt in enumerate(load_prompts().held_out):
        ids = target.tokenizer(prompt.text)["input_ids"]
        for seed in range(1, texts + 1):
            written = generate(target, ids, max_new_tokens=44, temperature=temperature, seed=seed)
            text = [*ids, *(token.id for token in written)]
            ends = range(len(ids) + 4, len(text), 8)
            positions += [Position(number, text[:end]) for end in ends]
    order = np.random.default_rng(0).permutation(len(positions))
    return [positions[i] for i in order[:count]]


def compare(
    target: Target,
    drafters: dict[str, Drafter],
    positions: Sequence[Position],
    given: argparse.Namespace,
) -> dict[str, list[float]]:
    """Expected tokens per target forward at each position, as the mean over draws."""
    found: dict[str, list[float]] = {}
    for number, position in enumerate(positions):
        engine = Engine(target, len(position.tokens) + 64)
        engine.prefill(position.tokens[:-1])
        here: dict[str, list[float]] = {}
        for draw in range(given.draws):
            options = SamplingOptions(
                temperature=given.temperature, seed=number * given.draws + draw
            )
            for name, drafter in drafters.items():
                sampler = TokenSampler(
                    options, target.device, coupled=False
                )  # the same noise for all
                state = DraftState(list(position.tokens), engine, sampler)
                for reading, tokens in expected_tokens(name, state, drafter).items():
                    here.setdefault(reading, []).append(tokens)
        for name, values in here.items():
            found.setdefault(name, []).append(mean(values))
    return found


def expected_tokens(name: str, state: DraftState, drafter: Drafter) -> dict[str, float]:
    """Draw one tree; its expected tokens per target forward without and with replacement."""
    start = state.engine.position
    tree = drafter.propose(state, 16)
    logits = run_target(state, tree)
    state.engine.rewind(start)
    q = state.sampler.probabilities(logits).double()
    found = {name: 1 + _below(tree, tree.children(), q, -1, _without)}
    if name.startswith("rsd-c"):
        found[name.replace("rsd-c", WITH)] = 1 + _below(tree, tree.children(), q, -1, _with)
    return found


Reading = Callable[[Tensor, Tensor, list[int]], list[float]]


def _below(
    tree: DraftTree, children: dict[int, list[int]], q: Tensor, node: int, reading: Reading
) -> float:
    """Expected number of accepted tokens below an accepted node; −1 is the current token."""
    if node not in children:
        return 0.0
    tokens = [tree.tokens[child] for child in children[node]]
    chances = reading(q[node + 1], tree.draft_probs[node].double(), tokens)
    return sum(
        chance * (1 + _below(tree, children, q, child, reading))
        for chance, child in zip(chances, children[node], strict=True)
        if chance > 0
    )


def _without(q: Tensor, p: Tensor, tokens: list[int]) -> list[float]:
    """Probability that each sibling is accepted, drawn without replacement.  # (V,), (V,)"""
    chances, reached = [0.0] * len(tokens), 1.0
    p = p.clone()
    for i, token in enumerate(tokens):
        accepted = min(1.0, float(q[token] / p[token])) if p[token] > 0 else 0.0
        chances[i] = reached * accepted
        reached *= 1 - accepted
        q = (q - p).clamp(min=0)
        p[token] = 0
        if reached <= 0 or not float(q.sum()) > 0 or not float(p.sum()) > 0:
            break
        q, p = q / q.sum(), p / p.sum()
    return chances


def _with(q: Tensor, p: Tensor, tokens: list[int]) -> list[float]:
    """The same for as many independent draws, whose distinct tokens in order are `tokens`.

    Repeated draws leave fewer distinct tokens. A token that is drawn again is rejected again,
    because its rejection leaves no probability for it in the residual distribution.
    """
    chances = [0.0] * len(tokens)
    seen = [sum(float(p[token]) for token in tokens[:i]) for i in range(len(tokens))]
    reached = [1.0] + [0.0] * len(tokens)  # by the number of distinct tokens drawn, all rejected
    for _draw in tokens:
        following = [0.0] * (len(tokens) + 1)
        for i, token in enumerate(tokens):
            fresh = reached[i] * (1 - seen[i])
            accepted = min(1.0, float(q[token] / p[token]))
            chances[i] += fresh * accepted
            following[i] += reached[i] * seen[i]
            following[i + 1] += fresh * (1 - accepted)
        reached, q = following, (q - p).clamp(min=0)
        if not float(q.sum()) > 0:
            break
        q = q / q.sum()
    return chances


def report(
    given: argparse.Namespace,
    target: Target,
    mask: SkipMask,
    prompts: Sequence[int],
    found: dict[int, dict[str, list[float]]],
) -> None:
    """Write the results.

    Args:
        prompts: number of the prompt of each position.
        found: expected tokens at each position, by size and tree.
    """
    environment, sizes = environment_of(target), " ".join(map(str, given.sizes))
    lines = [
        "# Draft trees of equal size\n",
        f"`python -m benchmarks.tree_sizes {given.model} --profile {given.profile} "
        f"--threads {given.threads} --temperature {given.temperature} "
        f"--positions {given.positions} --texts {given.texts} --draws {given.draws} "
        f"--sizes {sizes}`\n",
        *environment_lines(environment),
        f"\nMask `{mask}`; {len(prompts)} positions of texts sampled at temperature "
        f"{given.temperature} after {len(set(prompts))} held-out prompts; {given.draws} trees of "
        "each shape at a position, from the same noise for every shape. Trees with replacement "
        "are those of rsd-c, evaluated as if draws of one parent could repeat. Paired "
        "differences, 95 % bootstrap over prompts.\n",
        "| tree size | tree | tokens per target forward | minus with replacement, "
        "same branching | best rsd-s minus this |",
        "|---|---|---|---|---|",
        *(line for size, trees in found.items() for line in table_lines(size, trees, prompts)),
    ]
    record = {"environment": environment, "mask": str(mask), "prompts": prompts, "trees": found}
    write_results(given.output, record, lines)


def table_lines(size: int, trees: dict[str, list[float]], prompts: Sequence[int]) -> Iterator[str]:
    """A row for each tree of this size, the best first."""
    best = max((n for n in trees if n.startswith("rsd-s")), key=lambda n: mean(trees[n]))
    for name, values in sorted(trees.items(), key=lambda item: -mean(item[1])):
        twin = name.replace("rsd-c", WITH)
        gain = "–" if twin == name else shown(values, trees[twin], prompts)
        versus = "–" if name == best else shown(trees[best], values, prompts)
        yield f"| {size} | {name} | {mean(values):.3f} | {gain} | {versus} |"


def shown(ours: Sequence[float], theirs: Sequence[float], prompts: Sequence[int]) -> str:
    low, high = interval(np.array(ours) - np.array(theirs), np.array(prompts))
    return f"{mean(ours) - mean(theirs):+.3f} ({low:+.3f} to {high:+.3f})"


def interval(differences: np.ndarray, prompts: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap over prompts of the mean difference over positions."""
    clusters = [differences[prompts == prompt] for prompt in np.unique(prompts)]
    sums, counts = np.array([c.sum() for c in clusters]), np.array([len(c) for c in clusters])
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(clusters), (RESAMPLES, len(clusters)))
    low, high = np.quantile(sums[picks].sum(1) / counts[picks].sum(1), [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
