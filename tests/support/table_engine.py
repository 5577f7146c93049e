"""An engine whose logits are a table indexed by the last token.

The real loop, drafters, samplers and verifiers run on it. The exact distribution is known, and a
few hundred thousand tokens take seconds. Only the processing of logits, a pure function, is
cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from skipopt.decoding import loop
from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits
from skipopt.draft_config import DraftConfig
from skipopt.drafting.base import Drafter
from skipopt.kernels.packed_linear import LinearKernels
from skipopt.kernels.quantized_linear import QuantizedLinearCache
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.sublayers import DecoderLayer, Sublayer
from skipopt.rounds import Round
from skipopt.runtime.choice import Choice, likeliest
from skipopt.runtime.draft_head import DraftHeads
from skipopt.runtime.prompt_inputs import TOKENS_ONLY
from skipopt.runtime.rope_borders import RopeBorders
from skipopt.runtime.runtime import Runtime
from skipopt.runtime.step_cache_pool import StepCachePool
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.verification.base import Verifier
from skipopt.verification.rejection import Rejection

VOCABULARY = 8
PROCESSED = SamplingOptions(temperature=0.7, top_k=6, top_p=0.92, seed=1)
MASK = SkipMask.of(1, [0], [0])


class Remembering(TokenSampler):
    """A sampler that processes equal logits once."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._rows: dict[bytes, Tensor] = {}
        self._scores: dict[bytes, Tensor] = {}

    def probabilities(self, logits: Tensor) -> Tensor:
        key = logits.numpy().tobytes()
        if key not in self._rows:
            self._rows[key] = super().probabilities(logits)
        return self._rows[key]

    def _processed(self, logits: Tensor) -> Tensor:
        key = logits.numpy().tobytes()
        if key not in self._scores:
            self._scores[key] = super()._processed(logits)
        return self._scores[key]


def eager_runtime(model: nn.Module) -> Runtime:
    """A runtime without packing, quantization or captured steps."""
    quantized = QuantizedLinearCache(model, (), lambda layer: layer.forward)
    heads = DraftHeads(model, quantized, None)
    return Runtime(LinearKernels(), StepCachePool(), quantized, heads)


class TableEngine:
    """Logits of the target, or of the draft while the layer is skipped.

    Attributes:
        takes_trees: whether drafters may think so; trees are verified in any case.
    """

    keeps_hidden = False
    hidden = None
    takes_trees = False
    prompt_inputs = TOKENS_ONLY
    rope_borders = RopeBorders(SimpleNamespace(config=PreTrainedConfig()))

    def __init__(self, whole: Tensor, draft: Tensor) -> None:
        self.whole = whole
        self.draft = draft
        self.position = 0
        self.layer = nn.Identity()
        branch = Sublayer(self.layer, 0, 1)
        layer = DecoderLayer(0, branch, (branch,), (branch,), {"attention": (), "mlp": ()})
        self.target: Any = SimpleNamespace(
            layers=(layer,),
            device=torch.device("cpu"),
            depth=1,
            runtime=eager_runtime(self.layer),
            keeps_states=False,
            unskippable=frozenset(),
        )

    def prefill(self, tokens: Sequence[int]) -> None:
        self.position += len(tokens)

    def rewind(self, position: int) -> None:
        self.position = position

    def commit(self, start: int, kept: Sequence[int]) -> None:
        self.position = start + len(kept)

    def draft_mode(self, mask: SkipMask, config: DraftConfig) -> AbstractContextManager[object]:
        return skipping(self.target, mask)

    def step(self, tokens: Sequence[int]) -> Tensor:
        self.position += len(tokens)
        table = self.draft if "forward" in self.layer.__dict__ else self.whole
        return table[list(tokens)]

    def greedy_step(self, tokens: Sequence[int] | Tensor) -> Choice:
        logits = self.step([int(token) for token in tokens])
        return likeliest(logits)

    def step_tree(self, tokens: Sequence[int], depths: Sequence[int], attends: Tensor) -> Tensor:
        return self.step(tokens)


def table_engine(monkeypatch: pytest.MonkeyPatch) -> TableEngine:
    """An engine whose draft is often right, with a sampler that caches processed logits."""
    monkeypatch.setattr(loop, "TokenSampler", Remembering)
    generator = torch.Generator().manual_seed(0)
    whole, noise = torch.randn(2, VOCABULARY, VOCABULARY, generator=generator)
    return TableEngine(whole, 0.5 * whole + noise)


def sample(
    engine: TableEngine,
    drafter: Drafter,
    options: SamplingOptions,
    pairs: int,
    verifier: Verifier | None = None,
) -> tuple[list[int], list[Round]]:
    """The first token and `pairs` pairs after it, by rejection unless a verifier is given."""
    engine.rewind(0)
    limits = Limits(2 * pairs, 4 * pairs)
    verifier = verifier or Rejection()
    rounds = list(decode(engine, [0], drafter, options, limits, verifier))  # type: ignore[arg-type]
    return [0, *(token for r in rounds for token in r.emitted)], rounds
