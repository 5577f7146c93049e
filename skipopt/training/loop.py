"""The training of anything that learns from the model's own text: time, checkpoints, progress.

First the model writes, for a share of the time; then a learner learns from what was written. An
interrupted training goes on from its checkpoint, and ends as it would have without the break.
Knows nothing of what is learned, nor of how a draft comes about.
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
from skipopt.training.self_text import Pool, SelfGenerator, SelfText

WARM_STEPS = 50
LAST_RATE = 0.01  # of the learning rate, at the end


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How long to train, and how.

    Attributes:
        minutes: of writing and learning together; measuring comes on top.
        learning_rate: the highest; it falls linearly over the time of learning.
        writing_share: the most of the time that is spent on writing.
        tokens: writing ends before that once there are so many.
        new_tokens: of each text, at most.
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


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How well drafts foresee held-out greedy text.

    Attributes:
        positions: places in the text that were drafted from.
        single: share of them where the i-th drafted token is the model's.
        chain: share of them where that token and all before it are: Π a.
    """

    positions: int
    single: tuple[float, ...]
    chain: tuple[float, ...]

    @classmethod
    def of(cls, matched: Tensor) -> Acceptance:
        """From whether each drafted token is the model's.  # (drafted, positions) bool"""
        hits = matched.double()
        single, chain = hits.mean(1), hits.cumprod(0).mean(1)
        return cls(matched.shape[1], tuple(single.tolist()), tuple(chain.tolist()))

    @property
    def tokens_per_forward(self) -> float:
        """1 + Σ Π a: tokens for each pass that verifies, the target's own one included."""
        return 1 + sum(self.chain)

    def __str__(self) -> str:
        shares = " ".join(f"{share:.3f}" for share in self.single)
        return f"held-out acceptance {shares} · {self.tokens_per_forward:.2f} tokens per forward"

    def to_json(self) -> dict[str, Any]:
        return {
            "held_out_positions": self.positions,
            "acceptance": [round(share, 4) for share in self.single],
            "chain_acceptance": [round(share, 4) for share in self.chain],
            "tokens_per_forward": round(self.tokens_per_forward, 4),
        }


class Learner(Protocol):
    """What is trained, and on what."""

    @property
    def module(self) -> nn.Module:
        """Holds all that is learned, in float32; the model itself is not in it."""

    def groups(self) -> list[dict[str, Any]]:
        """Parameters for the optimiser; the learning rate of each group is times its `scale`."""

    def study(self, texts: Sequence[SelfText], held_out: Sequence[SelfText]) -> None:
        """Look at the texts once, before the first step.

        Raises:
            PromptError: the texts are too short to learn from or to measure on.
        """

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Of a few places; which they are follows from the step and the generator alone."""

    def matched(self) -> Tensor:
        """Whether each drafted token is the model's, on held-out text.  # (drafted, positions)"""


class Training:
    """One training: what was written and learned so far.

    Args:
        identity: what this training is; a checkpoint of another one is refused.
        checkpoint: the file to go on from, if it is there.
        clock: tells the seconds; only differences count.

    Raises:
        ArtefactError: the checkpoint is another training's, or damaged.
        OutputError: the checkpoint cannot be written.
    """

    def __init__(
        self,
        target: Target,
        learner: Learner,
        pool: Pool,
        plan: TrainConfig,
        identity: Mapping[str, Any],
        checkpoint: Path,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_writable(checkpoint)
        self._target = target
        self._learner = learner
        self._plan = plan
        self._checkpoint = checkpoint
        own = {"model": target.fingerprint, "prompts": pool.digest, "seed": plan.seed}
        self._identity = json.dumps({**identity, **own}, sort_keys=True)
        self._say = say
        self._clock = clock
        self._writer = SelfGenerator(target, pool, plan.new_tokens, plan.batch_texts, plan.seed)
        self._optimizer = torch.optim.AdamW(
            learner.groups(), lr=plan.learning_rate, weight_decay=0.0, betas=(0.9, 0.98)
        )
        self.held_out: list[SelfText] = []
        self.texts: list[SelfText] = []
        self.batches = self.steps = 0
        self.writing_seconds = self.learning_seconds = 0.0
        self._saved_at = self._reported_at = 0.0

    def run(self) -> dict[str, Any]:
        """Train to the end; returns the facts of it.

        Leaves the module rounded to what a file holds, and the checkpoint in place.

        Raises:
            KeyboardInterrupt: passes, after a checkpoint was written.
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
        self._say(f"{self.steps} steps · {found}")
        return {
            "tokens": self._tokens(),
            "texts": len(self.texts),
            "steps": self.steps,
            "seconds": round(self.writing_seconds + self.learning_seconds, 1),
            **found.to_json(),
        }

    # Writing

    def _write(self) -> None:
        limit = self._plan.minutes * 60 * self._plan.writing_share
        if not self.held_out:
            self.held_out = self._timed_writing(self._writer.held_out)
        while not self.texts or (
            self.writing_seconds < limit and self._tokens() < self._plan.tokens
        ):
            self.texts += self._timed_writing(lambda: self._writer.write(self.batches))
            self.batches += 1
            self._now_and_then(lambda: f"wrote {self._tokens()} tokens in {len(self.texts)} texts")

    def _timed_writing(self, write: Callable[[], list[SelfText]]) -> list[SelfText]:
        began = self._clock()
        texts = write()
        self.writing_seconds += self._clock() - began
        return texts

    def _tokens(self) -> int:
        return sum(len(text.tokens) - text.written_from for text in self.texts)

    # Learning

    def _learn(self) -> None:
        self._learner.study(self.texts, self.held_out)
        total, share = self._plan.minutes * 60, self._plan.writing_share
        # A slow model may have spent more than its share on the first texts alone.
        budget = max(total - self.writing_seconds, total * (1 - share))
        while self.learning_seconds < budget:
            began = self._clock()
            loss = self._step(self.learning_seconds / budget)
            self.learning_seconds += self._clock() - began
            self.steps += 1
            self._now_and_then(partial(self._line, loss))

    def _line(self, loss: float) -> str:
        return f"step {self.steps} · loss {loss:.3f} · {self._measure()}"

    def _step(self, progress: float) -> float:
        rate = self._plan.learning_rate * min(1.0, (self.steps + 1) / WARM_STEPS)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["scale"] * max(LAST_RATE, 1 - progress)
        # Fresh in every step, so that a checkpoint needs no state of chance.
        generator = torch.Generator().manual_seed((self._plan.seed << 32) + self.steps)
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
        """As what the file will hold does it."""
        for parameter in self._learner.module.parameters():
            parameter.data = parameter.data.to(STORED_DTYPE).to(parameter.dtype)
        return self._measure()

    def _now_and_then(self, line: Callable[[], str]) -> None:
        """A line of progress, and a checkpoint, when it is time for one."""
        spent = self.writing_seconds + self.learning_seconds
        if spent - self._reported_at >= self._plan.report_seconds:
            self._reported_at = spent
            self._say(f"minute {spent / 60:.1f} of {self._plan.minutes:g} · {line()}")
        if spent - self._saved_at >= self._plan.checkpoint_seconds:
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
        self._say(f"going on at minute {spent / 60:.1f}, step {self.steps}")


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        return {**state, "identity": state["identity"]}
    except Exception:  # a damaged pickle makes it raise anything
        raise CheckpointError(
            f"{path} cannot be read: it is no checkpoint of a training, or damaged",
            hint="delete it to start anew",
        ) from None


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for the model's own weights inside; their flags are put back after."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
