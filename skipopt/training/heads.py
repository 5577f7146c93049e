"""Train heads on the target's last hidden state; the target itself stays as it is.

Head i learns to name the token that the model says i + 2 places further, from text the model
wrote: cross-entropy weighted by 0.8^i (Medusa-1, arXiv 2401.10774, §2.2.1), all heads in every
step (blockwise parallel decoding, arXiv 1811.03115, §6, draws one of them to save memory).
Knows nothing of drafting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from skipopt.drafting.checkpoints.heads import (
    FeedForwardSettings,
    Heads,
    HeadSettings,
    MedusaSettings,
    final_states,
    make_heads,
    place_heads,
    projection,
    save_heads,
)
from skipopt.errors import PromptError
from skipopt.models.target import Target
from skipopt.training.loop import TrainConfig, Training
from skipopt.training.self_text import Pool, SelfText

MOST_UNITS = 1024  # of the hidden layer for each head: the next layer has k² times as many weights
FALL = 0.8  # weight of a head, relative to the one before it
PLACES = 512  # drawn for one step
TEXTS_AT_ONCE = 16


def usual_settings(target: Target, shape: str, count: int) -> HeadSettings:
    """Heads of a usual size for this model.

    Raises:
        ModelError: the model has no output projection.
    """
    if shape == "medusa":
        return MedusaSettings(count, blocks=1)
    return FeedForwardSettings(count, units=min(MOST_UNITS, projection(target).weight.shape[-1]))


def usual_plan(minutes: float, seed: int = 0) -> TrainConfig:
    return TrainConfig(minutes, learning_rate=2e-3, seed=seed)


def train_heads(
    target: Target,
    pool: Pool,
    settings: HeadSettings,
    plan: TrainConfig,
    output: Path,
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Train heads (or go on training) and write them to `output`; returns the facts.

    The checkpoint lies beside it, with the suffix `.checkpoint`, until the training is done.

    Raises:
        ArtefactError: the checkpoint is another training's.
        OutputError: a file cannot be written.
        PromptError: what the model writes is too short to learn from.
        KeyboardInterrupt: passes, after a checkpoint was written.
    """
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        heads = place_heads(make_heads(settings, target), target)
    learner = HeadLearner(target, heads)
    checkpoint = output.with_suffix(".checkpoint")
    identity = {"kind": "heads", **asdict(settings)}
    training = Training(target, learner, pool, plan, identity, checkpoint, say, clock)
    facts = training.run()
    save_heads(output, heads, target, facts)
    checkpoint.unlink()
    return facts


class HeadLearner:
    """Learns at places drawn at random from all that was written."""

    def __init__(self, target: Target, heads: Heads) -> None:
        self.module = heads
        self._target = target
        self._reach = heads.settings.count + 1

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters()), "scale": 1.0}]

    def study(self, texts: Sequence[SelfText], held_out: Sequence[SelfText]) -> None:
        self._training = read_states(self._target, texts, self._reach)
        self._held_out = read_states(self._target, held_out, self._reach)

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        places = self._training.draw(PLACES, generator)
        logits = self._logits(self._training, places)
        labels = self._training.labels(places, self._reach)
        each = cross_entropy(logits.movedim(-1, 1), labels, reduction="none").mean(1)
        weights = FALL ** torch.arange(len(each), device=each.device)
        return (each * weights).sum() / weights.sum()

    def matched(self) -> Tensor:
        found = self._held_out
        parts = [
            self._logits(found, places).argmax(-1) == found.labels(places, self._reach)
            for places in found.places.split(PLACES)
        ]
        return torch.cat(parts, 1)

    def _logits(self, states: States, places: Tensor) -> Tensor:
        return self.module.logits(states.hidden[places], self._target).float()  # (k, P, V)


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """Texts end to end, with the model's last hidden state after each token.

    Attributes:
        hidden: computed once; the model does not change.  # (N, d)
        tokens: # (N,)
        places: where all tokens that heads guess are the model's own, greedily or drawn.  # (P,)
    """

    hidden: Tensor
    tokens: Tensor
    places: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Some of the places.  # (count,)"""
        return self.places[torch.randint(len(self.places), (count,), generator=generator)]

    def labels(self, places: Tensor, reach: int) -> Tensor:
        """The tokens 2 to `reach` places further.  # (reach − 1, P)"""
        return torch.stack([self.tokens[places + step] for step in range(2, reach + 1)])


@torch.no_grad()
def read_states(target: Target, texts: Sequence[SelfText], reach: int) -> States:
    """The states after the last token of each prompt and after all that the model wrote.

    Raises:
        PromptError: no text is long enough.
    """
    hidden: list[Tensor] = []
    tokens: list[Tensor] = []
    usable: list[Tensor] = []
    for text, states in _run(target, texts):
        first = text.written_from - 1
        # A view would keep the prompt and the padding in memory.
        hidden.append(states[first : len(text.tokens)].clone())
        tokens.append(torch.tensor(text.tokens[first:]))
        usable.append(torch.arange(len(text.tokens) - first) + reach < len(text.tokens) - first)
    places = torch.cat(usable).nonzero()[:, 0] if usable else torch.zeros(0)
    if not len(places):
        raise PromptError(
            f"the model never writes {reach} tokens before its text ends or loops",
            hint="give other prompts, or a smaller --count",
        )
    device = hidden[0].device
    return States(torch.cat(hidden), torch.cat(tokens).to(device), places.to(device))


def _run(target: Target, texts: Iterable[SelfText]) -> Iterator[tuple[SelfText, Tensor]]:
    """Texts of like length together, padded behind, where nothing before it can see it."""
    ordered = sorted(texts, key=lambda text: len(text.tokens))
    for start in range(0, len(ordered), TEXTS_AT_ONCE):
        group = ordered[start : start + TEXTS_AT_ONCE]
        ids = torch.zeros(len(group), len(group[-1].tokens), dtype=torch.long)
        for row, text in enumerate(group):
            ids[row, : len(text.tokens)] = torch.tensor(text.tokens)
        yield from zip(group, final_states(target, ids.to(target.device)), strict=True)
