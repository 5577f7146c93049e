"""The part `train`: a Llama on the Python source of this machine, trained with sublayer dropout.

Dropout and the masked pass are those of the built-in model (`tools.train_builtin_model`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_parts.session import NotRun, Session
from benchmarks.gpu_parts.sources import Sources, read_sources
from tools.train_builtin_model import (
    Recipe,
    TrainingState,
    encode,
    export,
    held_out_loss,
    iterate_batches,
    train_tokenizer,
)

if TYPE_CHECKING:
    from torch import Tensor

MIN_SECONDS = 1.0
SHARE_FOR_SAVING = 0.1
SAY_EVERY = 25  # steps
HELD_OUT_CHARACTERS = 400_000


def train(session: Session) -> Iterator[dict[str, Any]]:
    """Yields facts of the training; the model is saved in the session's folder at the end.

    Raises:
        NotRun: a checkpoint was given.
    """
    import torch

    if session.checkpoint is not None:
        raise NotRun(f"the checkpoint {session.checkpoint} was given")
    torch.manual_seed(0)
    recipe = Recipe(**session.sizes.recipe)
    sources = read_sources(session.sizes.corpus)
    tokenizer = train_tokenizer(_some(sources.train, session.sizes.tokenizer), recipe)
    stream = encode(tokenizer, sources.train)
    held_out = encode(tokenizer, _some(sources.held_out, HELD_OUT_CHARACTERS))
    seconds = max(MIN_SECONDS, session.left() * (1 - SHARE_FOR_SAVING))
    recipe = replace(recipe, minutes=seconds / 60)
    state = TrainingState(recipe, str(session.device))
    # The built-in model trains with eager attention, for short contexts on a CPU.
    state.model.set_attn_implementation("sdpa")
    facts = _facts(state, sources, stream)
    session.say(f"{facts['parameters']} parameters, {len(stream)} tokens of source")
    yield facts
    for losses in _steps(state, stream):
        if state.step % SAY_EVERY == 0:
            session.say(_progress(state, losses))
        last = losses
    facts |= {"steps": state.step, "tokens_seen": state.tokens, "training_loss": last[0]}
    facts |= {"thinned_divergence": last[1], "training_seconds": 60 * state.minutes}
    facts["held_out_loss"] = held_out_loss(state.model, held_out)
    export(state.model, tokenizer, session.model_folder, facts)
    yield facts


def _steps(state: TrainingState, stream: Tensor) -> Iterator[tuple[float, float]]:
    """Losses of each step, for the minutes of the recipe."""
    batches = iterate_batches(stream, state.recipe, state)
    while state.minutes < state.recipe.minutes:
        began = time.monotonic()
        losses = state.train_step(batches)
        state.minutes += (time.monotonic() - began) / 60
        yield losses


def _facts(state: TrainingState, sources: Sources, stream: Tensor) -> dict[str, Any]:
    return {
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "layers": state.recipe.layers,
        "files": len(sources.train),
        "held_out_files": len(sources.held_out),
        "corpus_tokens": len(stream),
        "recipe": asdict(state.recipe),
    }


def _progress(state: TrainingState, losses: tuple[float, float]) -> str:
    return (
        f"step {state.step} of minute {state.minutes:.1f}: {state.tokens} tokens, "
        f"loss {losses[0]:.3f}, divergence of the thinned pass {losses[1]:.3f}"
    )


def _some(texts: Mapping[str, str], characters: int) -> dict[str, str]:
    """The first texts that make up about so many characters; at least one."""
    average = max(1, sum(map(len, texts.values())) // max(1, len(texts)))
    return dict(islice(texts.items(), max(1, characters // average)))
