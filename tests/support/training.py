"""Training runs on tiny models with a clock that ticks at each reading."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch

from skipopt.drafting.checkpoints.heads import (
    FeedForwardSettings,
)
from skipopt.drafting.checkpoints.mask_tokens import MaskTokens
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.training.heads import HeadLearner, train_heads
from skipopt.training.loop import TrainConfig
from skipopt.training.mask_tokens import (
    SlotLearner,
    train_mask_tokens,
)
from skipopt.training.self_text import Pool
from support.tiny import (
    tiny_prompts,
)

BODY = SkipMask.of(3, attention=[1], mlp=[2])


PLAN = TrainConfig(
    minutes=0.5, learning_rate=0.01, new_tokens=12, batch_texts=4, checkpoint_seconds=5
)


def ticking() -> Callable[[], float]:
    """A clock that advances by one second at each reading."""
    return count().__next__


def quiet(line: str) -> None:
    return None


def pool_of(number: int, vocabulary: int = 64) -> Pool:
    prompts = [tuple(prompt) for prompt in tiny_prompts(number, vocabulary=vocabulary)]
    return Pool(tuple(prompts[2:]), tuple(prompts[:2]))


def drafted(target: Target, tokens: MaskTokens, text: tuple[int, ...]) -> torch.Tensor:
    """Logits of the current token and of each mask token after it, computed by the engine."""
    engine = Engine(target, 64)
    engine.prefill(text[:-1])
    with torch.no_grad(), skipping(target, tokens.body):
        rows = tokens.after(engine.embed(text[-1:]))
        causal = torch.ones(len(rows), len(rows), dtype=torch.bool).tril()
        return engine.step_tree(rows, range(len(rows)), causal)


class Kind(NamedTuple):
    """A kind of training, and how to start one."""

    learner: type
    run: Callable[..., dict[str, Any]]


def heads_run(target: Target, path: Path, count: int = 2, **changes: Any) -> dict[str, Any]:
    plan = TrainConfig(**{**vars_of(PLAN), **changes})
    settings = FeedForwardSettings(count, units=8)
    return train_heads(target, pool_of(12), settings, plan, path, quiet, ticking())


def tokens_run(target: Target, path: Path, count: int = 2, **changes: Any) -> dict[str, Any]:
    plan = TrainConfig(**{**vars_of(PLAN), **changes})
    return train_mask_tokens(target, pool_of(12), count, 4, BODY, plan, path, quiet, ticking())


def vars_of(plan: TrainConfig) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


KINDS = [Kind(HeadLearner, heads_run), Kind(SlotLearner, tokens_run)]
