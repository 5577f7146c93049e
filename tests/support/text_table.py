"""A target whose logits are a table indexed by text, random trees for it, and samplers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from skipopt.drafting.tree import DraftTree
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.verification.base import VerifyResult

VOCABULARY = 6
CPU = torch.device("cpu")
GREEDY = SamplingOptions()
SAMPLED = SamplingOptions(temperature=0.8, top_k=4, seed=5)
SCALE = 2.0  # of the logits


def coupled(options: SamplingOptions) -> TokenSampler:
    return TokenSampler(options, CPU, coupled=True)


class Table:
    """A target whose logits are a function of the text below the current token."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def row(self, path: Sequence[int]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self._seed, *path)) % 2**31)
        return SCALE * torch.randn(VOCABULARY, generator=generator)

    def rows(self, draft: DraftTree) -> Tensor:
        paths: list[tuple[int, ...]] = []
        for token, parent in zip(draft.tokens, draft.parents, strict=True):
            paths.append((*(paths[parent] if parent >= 0 else ()), token))
        return torch.stack([self.row(path) for path in [(), *paths]])


def random_tree(rng: Random, size: int) -> DraftTree:
    """A random tree; siblings may have the same token."""
    tokens = tuple(rng.randrange(VOCABULARY) for _ in range(size))
    return DraftTree(tokens, tuple(rng.randrange(-1, i) if i else -1 for i in range(size)))


def emitted(draft: DraftTree, verdict: VerifyResult) -> list[int]:
    return [*(draft.tokens[i] for i in verdict.path), verdict.last_token]
