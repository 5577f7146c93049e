"""Which tree of so many tokens is worth most? Draft trees of equal size, sampled.

    python -m benchmarks.tree_sizes --profile results/earlier-profile.yaml

Trees are drawn by the layer-skip draft at places of texts that plain sampling wrote after
held-out prompts; the target reads each tree once. What recursive rejection sampling would accept
of it is then computed exactly, as an expectation over its coins, so that chance is left in the
drawing of trees alone. Every tree is drawn at the same places, equally often, and the n-th tree of
every shape from the same noise.

- *rsd-c*: siblings without replacement, constant branching (arXiv 2402.14160);
- *rsd-s*: without replacement, stochastic beam search (the same);
- *with replacement*: siblings drawn independently, constant branching (SpecInfer's trees). The
  distinct tokens among independent draws, in order, *are* draws without replacement, and what lies
  below a token does not depend on how often it was drawn. So each tree of rsd-c is read a second
  time, as an expectation over how many of a parent's draws only repeat an elder sibling: the two
  columns differ by the repeats alone, and not by the luck of two drawings.

Intervals are over prompts, for places of one prompt are alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor

import skipopt
from benchmarks.result_files import environment_lines
from skipopt.bench.provenance import environment_of
from skipopt.decoding.api import generate
from skipopt.decoding.loop import run_target
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.rsd_c import ConstantTreeDrafter
from skipopt.drafting.rsd_s import BeamTreeDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
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


WITH = "with replacement"  # read out of the trees of rsd-c


@dataclass(frozen=True, slots=True)
class Place:
    """The beginning of a text, and after which prompt it stands."""

    prompt: int
    tokens: list[int]


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    target = skipopt.load(given.model)
    mask = Profile.load(given.profile).skip_mask
    places = sampled_places(target, given.places, given.texts, given.temperature)
    found = {}
    for size in given.sizes:
        drafters = trees_of(size, target, mask)
        found[size] = compare(target, drafters, places, given)
        print(f"trees of {size} are done", flush=True)
    report(given, target, mask, [place.prompt for place in places], found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--profile", default="configs/builtin.yaml")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--places", type=int, default=200)
    parser.add_argument("--texts", type=int, default=1, help="sampled after each prompt")
    parser.add_argument("--draws", type=int, default=4, help="trees of each shape at a place")
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


def sampled_places(target: Target, count: int, texts: int, temperature: float) -> list[Place]:
    """Beginnings of sampled texts: the prompt and 4, 12, 20, … tokens after it."""
    places = []
    for number, prompt in enumerate(load_prompts().held_out):
        ids = target.tokenizer(prompt.text)["input_ids"]
        for seed in range(1, texts + 1):
            written = generate(target, ids, max_new_tokens=44, temperature=temperature, seed=seed)
            text = [*ids, *(token.id for token in written)]
            ends = range(len(ids) + 4, len(text), 8)
            places += [Place(number, text[:end]) for end in ends]
    order = np.random.default_rng(0).permutation(len(places))
    return [places[i] for i in order[:count]]


def compare(
    target: Target,
    drafters: dict[str, Drafter],
    places: Sequence[Place],
    given: argparse.Namespace,
) -> dict[str, list[float]]:
    """Expected tokens of a target forward at each place, mean over draws."""
    found: dict[str, list[float]] = {}
    for number, place in enumerate(places):
        engine = Engine(target, len(place.tokens) + 64)
        engine.prefill(place.tokens[:-1])
        here: dict[str, list[float]] = {}
        for draw in range(given.draws):
            options = SamplingOptions(
                temperature=given.temperature, seed=number * given.draws + draw
            )
            for name, drafter in drafters.items():
                sampler = TokenSampler(
                    options, target.device, coupled=False
                )  # the same noise for all
                state = DraftState(list(place.tokens), engine, sampler)
                for reading, worth in worths(name, state, drafter).items():
                    here.setdefault(reading, []).append(worth)
        for name, values in here.items():
            found.setdefault(name, []).append(mean(values))
    return found


def worths(name: str, state: DraftState, drafter: Drafter) -> dict[str, float]:
    """Expected tokens of a target forward with one tree, drawn now, by how it is read."""
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
    """Expected accepted tokens below a node that was accepted; −1 is the current token."""
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
    """Chance of each sibling to be the one accepted, drawn without replacement.  # (V,), (V,)"""
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
    """The same over as many independent draws, of which `tokens` are the distinct ones in order.

    Fewer of them are seen where draws repeat; a token drawn again is rejected again, because its
    rejection left nothing of it in the residual.
    """
    chances = [0.0] * len(tokens)
    seen = [sum(float(p[token]) for token in tokens[:i]) for i in range(len(tokens))]
    reached = [1.0] + [0.0] * len(tokens)  # by distinct tokens drawn, all of them rejected
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
    environment, sizes = environment_of(target), " ".join(map(str, given.sizes))
    lines = [
        "# Draft trees of equal size\n",
        f"`python -m benchmarks.tree_sizes {given.model} --profile {given.profile} "
        f"--threads {given.threads} --temperature {given.temperature} --places {given.places} "
        f"--texts {given.texts} --draws {given.draws} --sizes {sizes}`\n",
        *environment_lines(environment),
        f"\nMask `{mask}`; {len(prompts)} places of texts sampled at temperature "
        f"{given.temperature} after {len(set(prompts))} held-out prompts; trees of each shape at "
        f"a place: {given.draws}, from the same noise for every shape. Trees with replacement are "
        f"those of rsd-c, read as if a parent's draws could repeat: without replacement gains "
        f"what the tokens behind repeats are worth, which is little where the draft's rows are "
        f"flat. Paired differences, 95 % bootstrap over prompts.\n",
        "| tree size | tree | tokens per target forward | this less with replacement, "
        "same branching | the best rsd-s less this |",
        "|---|---|---|---|---|",
    ]
    for size, trees in found.items():
        best = max((n for n in trees if n.startswith("rsd-s")), key=lambda n: mean(trees[n]))
        for name, values in sorted(trees.items(), key=lambda item: -mean(item[1])):
            twin = name.replace("rsd-c", WITH)
            gain = "–" if twin == name else shown(values, trees[twin], prompts)
            versus = "–" if name == best else shown(trees[best], values, prompts)
            lines.append(f"| {size} | {name} | {mean(values):.3f} | {gain} | {versus} |")
    record = {"environment": environment, "mask": str(mask), "prompts": prompts, "trees": found}
    texts = {".json": json.dumps(record), ".md": "\n".join(lines)}
    for suffix, text in texts.items():
        given.output.with_name(given.output.name + suffix).write_text(text + "\n")
    print("\n".join(lines))


def shown(ours: Sequence[float], theirs: Sequence[float], prompts: Sequence[int]) -> str:
    low, high = interval(np.array(ours) - np.array(theirs), np.array(prompts))
    return f"{mean(ours) - mean(theirs):+.3f} ({low:+.3f} to {high:+.3f})"


def interval(differences: np.ndarray, prompts: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap over prompts of the mean difference over places."""
    clusters = [differences[prompts == prompt] for prompt in np.unique(prompts)]
    sums, counts = np.array([c.sum() for c in clusters]), np.array([len(c) for c in clusters])
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(clusters), (RESAMPLES, len(clusters)))
    low, high = np.quantile(sums[picks].sum(1) / counts[picks].sum(1), [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
