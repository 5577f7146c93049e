"""The training loop of all drafters: time limits, checkpoints, progress.

First the model generates text for a share of the time, then a learner is trained on it. An
interrupted training resumes from its checkpoint with the same result as without the interruption.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from skipopt.drafting.checkpoints.checkpoint import STORED_DTYPE, CheckpointError
from skipopt.files import check_writable, replacing
from skipopt.models.target import Target
from skipopt.option_values import convert_numbers
from skipopt.sampling import MAX_SEED, check_seed
from skipopt.training.self_text import Pool, SelfGenerator, SelfText

WARMUP_STEPS = 50
FINAL_RATE = 0.01  # of the learning rate, at the end


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How long to train, and how.

    Attributes:
        minutes: of generating and learning together, without evaluation.
        learning_rate: the highest; it falls linearly over the learning time.
        writing_share: the largest share of the time for generating text.
        tokens: generating ends earlier once there are this many tokens.
        new_tokens: most generated tokens per text.
        batch_texts: texts generated together.
        checkpoint_seconds: time between checkpoints.
        report_seconds: time between progress lines.
        seed: of prompts, sampling and training steps.

    Raises:
        UsageError: a seed out of range, or a value of another type.
    """

    minutes: float
    learning_rate: float
    writing_share: float = 0.5
    tokens: int = 400_000
    new_tokens: int = 64
    batch_texts: int = 32
    checkpoint_seconds: float = 60.0
    report_seconds: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        convert_numbers(self)
        check_seed(self.seed)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Acceptance of drafts on held-out greedy text.

    Attributes:
        positions: number of positions drafted from.
        single: by position in the draft, the share of correct tokens.
        chain: the share where that token and all before it are correct.
    """

    positions: int
    single: tuple[float, ...]
    chain: tuple[float, ...]

    @classmethod
    def of(cls, matched: Tensor) -> Acceptance:
        """From which drafted tokens are the model's own.  # (drafted, positions) bool"""
        hits = matched.double()
        single, chain = hits.mean(1), hits.cumprod(0).mean(1)
        return cls(matched.shape[1], tuple(single.tolist()), tuple(chain.tolist()))

    @property
    def tokens_per_forward(self) -> float:
        """Mean acceptance length: tokens per target forward, its own one included."""
        return 1 + sum(self.chain)

    def __str__(self) -> str:
        shares = " ".join(f"{share:.3f}" for share in self.single)
        return f"held-out acceptance {shares} · {self.tokens_per_forward:.2f} tokens per forward"

    def to_json(self) -> dict[str, Any]:
        """The facts that a checkpoint holds."""
        return {
            "held_out_positions": self.positions,
            "acceptance": [round(share, 4) for share in self.single],
            "chain_acceptance": [round(share, 4) for share in self.chain],
            "tokens_per_forward": round(self.tokens_per_forward, 4),
        }


class Learner(Protocol):
    """A module in training, and its data."""

    @property
    def module(self) -> nn.Module:
        """The trained module in float32, without the model itself."""

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer; `scale` multiplies the learning rate."""

    def prepare(self, texts: Sequence[SelfText], held_out: Sequence[SelfText]) -> None:
        """Prepare the texts, once before the first step.

        Raises:
            PromptError: the texts are too short.
        """

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """The loss at a few positions, which depend only on the step and the generator."""

    def matched(self) -> Tensor:
        """Which drafted tokens are the model's, on held-out text.  # (drafted, positions) bool"""


class Training:
    """One training, with the texts generated and the steps done so far.

    Args:
        identity: what is trained; checkpoints of another training are refused.
        checkpoint: the file to resume from, if it exists.
        on_progress: called with lines of text.
        clock: seconds.

    Raises:
        OutputError: the checkpoint cannot be written.
    """

    def __init__(
        self,
        target: Target,
        learner: Learner,
        pool: Pool,
        config: TrainConfig,
        identity: Mapping[str, Any],
        checkpoint: Path,
        on_progress: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_writable(checkpoint)
        self._target = target
        self._learner = learner
        self._config = config
        self._checkpoint = checkpoint
        own = {"model": target.fingerprint, "prompts": pool.digest, "seed": config.seed}
        self._identity = json.dumps({**identity, **own}, sort_keys=True)
        self._on_progress = on_progress
        self._clock = clock
        self._generator = SelfGenerator(
            target, pool, config.new_tokens, config.batch_texts, config.seed
        )
        self._optimizer = torch.optim.AdamW(
            learner.groups(), lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.98)
        )
        self.held_out: list[SelfText] = []
        self.texts: list[SelfText] = []
        self.batches = self.steps = 0
        self.writing_seconds = self.learning_seconds = 0.0
        self._saved_at = self._reported_at = 0.0

    def run(self) -> dict[str, Any]:
        """Train to the end; returns facts about the training.

        The module is rounded to the precision of a file; the checkpoint is kept.

        Raises:
            CheckpointError: the checkpoint is damaged, or of another training.
            KeyboardInterrupt: after a checkpoint was written.
        """
        if self._checkpoint.exists():
            self._restore()
        try:
            with frozen(self._target.model):
                self._write()
                self._learn()
        except KeyboardInterrupt:
            self._save()
            raise
        self._save()
        found = self._measure_rounded()
        self._on_progress(f"{self.steps} steps · {found}")
        return {
            "tokens": self._tokens(),
            "texts": len(self.texts),
            "steps": self.steps,
            "seconds": round(self.writing_seconds + self.learning_seconds, 1),
            **found.to_json(),
        }

    # Generating text

    def _write(self) -> None:
        limit = self._config.minutes * 60 * self._config.writing_share
        if not self.held_out:
            self.held_out = self._timed_writing(self._generator.held_out)
        while not self.texts or (
            self.writing_seconds < limit and self._tokens() < self._config.tokens
        ):
            self.texts += self._timed_writing(lambda: self._generator.write(self.batches))
            self.batches += 1
            self._tick(lambda: f"wrote {self._tokens()} tokens in {len(self.texts)} texts")

    def _timed_writing(self, write: Callable[[], list[SelfText]]) -> list[SelfText]:
        began = self._clock()
        texts = write()
        self.writing_seconds += self._clock() - began
        return texts

    def _tokens(self) -> int:
        return sum(len(text.tokens) - text.written_from for text in self.texts)

    # Learning

    def _learn(self) -> None:
        self._learner.prepare(self.texts, self.held_out)
        total, share = self._config.minutes * 60, self._config.writing_share
        # A slow model may need more than that share for the first batch.
        budget = max(total - self.writing_seconds, total * (1 - share))
        while self.learning_seconds < budget:
            began = self._clock()
            loss = self._step(self.learning_seconds / budget)
            self.learning_seconds += self._clock() - began
            self.steps += 1
            self._tick(partial(self._line, loss))

    def _line(self, loss: float) -> str:
        return f"step {self.steps} · loss {loss:.3f} · {self._measure()}"

    def _step(self, progress: float) -> float:
        rate = self._config.learning_rate * min(1.0, (self.steps + 1) / WARMUP_STEPS)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["scale"] * max(FINAL_RATE, 1 - progress)
        # A new one in every step, so that a checkpoint needs no generator state.
        seed = ((self._config.seed << 32) + self.steps) & MAX_SEED
        generator = torch.Generator().manual_seed(seed)
        loss = self._learner.loss(self.steps, generator)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._learner.module.parameters(), 1.0)
        self._optimizer.step()
        return float(loss.detach())

    def _measure(self) -> Acceptance:
        with torch.no_grad():
            return Acceptance.of(self._learner.matched())

    def _measure_rounded(self) -> Acceptance:
        """The acceptance in the precision of the file."""
        for parameter in self._learner.module.parameters():
            parameter.data = parameter.data.to(STORED_DTYPE).to(parameter.dtype)
        return self._measure()

    def _tick(self, line: Callable[[], str]) -> None:
        """Report progress and save a checkpoint, if it is time to."""
        spent = self.writing_seconds + self.learning_seconds
        if spent - self._reported_at >= self._config.report_seconds:
            self._reported_at = spent
            self._on_progress(f"minute {spent / 60:.1f} of {self._config.minutes:g} · {line()}")
        if spent - self._saved_at >= self._config.checkpoint_seconds:
            self._saved_at = spent
            self._save()

    # The checkpoint

    def _save(self) -> None:
        state = {
            "identity": self._identity,
            "texts": [(t.tokens, t.written_from) for t in self.texts],
            "held_out": [(t.tokens, t.written_from) for t in self.held_out],
            "module": self._learner.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "counts": (self.batches, self.steps, self.writing_seconds, self.learning_seconds),
        }
        with replacing(self._checkpoint) as temporary:
            torch.save(state, temporary)

    def _restore(self) -> None:
        state = _read_checkpoint(self._checkpoint)
        if state["identity"] != self._identity:
            raise CheckpointError(
                f"{self._checkpoint} is the checkpoint of another training",
                hint="give another --output, or delete the checkpoint",
            )
        self.texts, self.held_out = (
            [SelfText(tuple(tokens), start) for tokens, start in state[key]]
            for key in ("texts", "held_out")
        )
        self._learner.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.batches, self.steps, self.writing_seconds, self.learning_seconds = state["counts"]
        spent = self.writing_seconds + self.learning_seconds
        self._saved_at = self._reported_at = spent
        self._on_progress(f"resuming at minute {spent / 60:.1f}, step {self.steps}")


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        return {**state, "identity": state["identity"]}
    except Exception:  # a damaged pickle makes it raise anything
        raise CheckpointError(
            f"{path} cannot be read: it is not a checkpoint of a training, or damaged",
            hint="delete it to start again",
        ) from None


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, the model's weights need no gradients; their flags are restored afterwards."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
