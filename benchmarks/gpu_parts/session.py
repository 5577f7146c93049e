"""What every part is given: device, sizes, folders, and how much time is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

GIB = 1 << 30


class NotRun(Exception):
    """A part need not run; the message says why."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of everything.

    Attributes:
        recipe: fields of `tools.train_builtin_model.Recipe` to change.
        corpus: characters of Python source to train on, at most.
        tokenizer: characters of it that the tokenizer is trained on.
        calibration, held_out: numbers of prompts.
        new_tokens: of each text.
        shrink: replaces these settings in the configs of the shapes part.
        copied: bytes of the buffer that the copy bandwidth is measured with.
        context: tokens in the cache while steps are timed.
        repeats: (minimum, maximum) number of times that each step is timed.
        compile: arguments of `torch.compile` for plain decoding.
    """

    recipe: Mapping[str, Any]
    corpus: int
    tokenizer: int
    calibration: int
    held_out: int
    new_tokens: int
    shrink: Mapping[str, Any]
    copied: int
    context: int
    repeats: tuple[int, int]
    compile: Mapping[str, Any]


FULL = Sizes(
    recipe={
        "vocabulary": 8192,
        "hidden": 1024,
        "intermediate": 2816,
        "layers": 24,
        "heads": 16,
        "context": 2048,
        "batch_tokens": 32768,
        "contexts": ((0.0, 512), (0.85, 1024)),
        "learning_rate": 1.5e-3,
    },
    corpus=120_000_000,
    tokenizer=12_000_000,
    calibration=32,
    held_out=16,
    new_tokens=96,
    shrink={},
    copied=2 * GIB,
    context=512,
    repeats=(3, 40),
    compile={"mode": "reduce-overhead", "fullgraph": True},
)

# Small enough for a laptop in seconds; shows whether the script runs.
TOY = Sizes(
    recipe={
        "vocabulary": 384,
        "hidden": 32,
        "intermediate": 64,
        "layers": 4,
        "heads": 2,
        "context": 1024,
        "batch_tokens": 512,
        "contexts": ((0.0, 64),),
    },
    corpus=600_000,
    tokenizer=50_000,
    calibration=4,
    held_out=2,
    new_tokens=12,
    shrink={
        "vocab_size": 256,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    },
    copied=1 << 22,
    context=16,
    repeats=(3, 3),
    compile={"backend": "eager"},
)


@dataclass(slots=True)
class Session:
    """One call of the script.

    Attributes:
        work: folder of models and profiles, kept between parts and calls.
        checkpoint: a model to measure instead of the one trained here.
        until: end of the running part, by `time.monotonic`.
        say: called with lines of progress.
    """

    device: torch.device
    sizes: Sizes
    work: Path
    checkpoint: Path | None = None
    until: float = 0.0
    say: Callable[[str], None] = field(default=print)

    def left(self) -> float:
        """Seconds that the running part may still take; may be negative."""
        return self.until - time.monotonic()

    @property
    def model_folder(self) -> Path:
        return self.checkpoint or self.work / "model"

    @property
    def profile_path(self) -> Path:
        return self.work / "profile.yaml"


def share(weights: Mapping[str, float], part: str, seconds: float) -> float:
    """The part's share of `seconds`, if it and all parts after it are still to run."""
    names = list(weights)
    to_come = names[names.index(part) :]
    return max(0.0, seconds) * weights[part] / sum(weights[name] for name in to_come)
