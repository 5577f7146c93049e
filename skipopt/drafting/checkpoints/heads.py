"""Heads on the target's last hidden state that guess several tokens ahead at once.

Two shapes: `ffn`, one network for all heads (blockwise parallel decoding, Stern et al.,
arXiv 1811.03115, §4.1), and `medusa`, a stack of its own for each (Medusa, arXiv 2401.10774,
§2.1.1). Either maps a state h to k states, and the target's own vocabulary projection turns each
into logits, so that a file holds no vocabulary. Knows nothing of drafting or of training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from torch import Tensor, nn
from torch.nn.functional import relu, silu

from skipopt.drafting.checkpoints.checkpoint import fill, load, read_settings, save
from skipopt.errors import ModelError
from skipopt.models.patch import Patch
from skipopt.models.target import Target

Count = Annotated[int, Field(ge=1, le=64)]
Units = Annotated[int, Field(ge=1, le=1 << 16)]


@dataclass(frozen=True, slots=True)
class FeedForwardSettings:
    """k = `count` heads; their one hidden layer has count · `units` units."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    count: Count
    units: Units
    shape: Literal["ffn"] = "ffn"


@dataclass(frozen=True, slots=True)
class MedusaSettings:
    """k = `count` heads, each of `blocks` residual blocks."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    count: Count
    blocks: Count
    shape: Literal["medusa"] = "medusa"


HeadSettings = Annotated[FeedForwardSettings | MedusaSettings, Field(discriminator="shape")]
SETTINGS: TypeAdapter[HeadSettings] = TypeAdapter(HeadSettings)


class Heads(nn.Module):
    """k heads; head i (from 0) guesses the token i + 2 places after the one whose state it sees.

    The target's own projection guesses the token one place after it. New heads return the state
    as it is, so their logits are the target's own.

    Attributes:
        settings: what shapes them; `settings.count` is k.
    """

    settings: HeadSettings

    def states(self, hidden: Tensor) -> Tensor:
        """What the vocabulary projection is to be applied to.  # (…, d) -> (k, …, d)"""
        raise NotImplementedError

    def logits(self, hidden: Tensor, target: Target) -> Tensor:
        """Scores of every token by each head.  # (…, d) -> (k, …, V)

        They come straight from the projection. Models that scale or cap their logits after it
        (Granite, Cohere, Gemma 2) do so monotonically: the likeliest token is the same, but
        probabilities are not.
        """
        logits: Tensor = projection(target)(self.states(hidden))
        return logits


class FeedForwardHeads(Heads):
    """One network d → k·d_ff → k·d for all heads, and a residual from the state to each of them.

    Blockwise parallel decoding (arXiv 1811.03115, §4.1 and figure 3).
    """

    def __init__(self, settings: FeedForwardSettings, width: int) -> None:
        super().__init__()
        self.settings = settings
        inner = settings.count * settings.units
        self.first = nn.Linear(width, inner)
        self.second = nn.Linear(inner, settings.count * width)
        _silence(self.second)

    def states(self, hidden: Tensor) -> Tensor:
        inner = relu(self.first(hidden.to(self.first.weight.dtype)))
        change = self.second(inner).unflatten(-1, (self.settings.count, -1))  # (…, k, d)
        changed: Tensor = hidden + change.movedim(-2, 0).to(hidden.dtype)
        return changed


class MedusaHeads(Heads):
    """Each head a stack of residual blocks h + SiLU(W·h + b).

    Medusa-1 (arXiv 2401.10774, §2.1.1), with W = 0 and b = 0 at first, as there.
    """

    def __init__(self, settings: MedusaSettings, width: int) -> None:
        super().__init__()
        self.settings = settings
        # A list multiplied by a number would hold one and the same module many times.
        self.heads = nn.ModuleList(
            nn.ModuleList(_silent(width) for _ in range(settings.blocks))
            for _ in range(settings.count)
        )

    def states(self, hidden: Tensor) -> Tensor:
        return torch.stack([_through(blocks, hidden) for blocks in self.heads])


def make_heads(settings: HeadSettings, target: Target) -> Heads:
    """New heads for the states of this model, which they return as they are.

    Raises:
        ModelError: the model has no output projection.
    """
    width = projection(target).weight.shape[-1]
    if isinstance(settings, FeedForwardSettings):
        return FeedForwardHeads(settings, width)
    return MedusaHeads(settings, width)


def save_heads(path: str | Path, heads: Heads, target: Target, facts: dict[str, Any]) -> None:
    """Write them with the facts of their training. Raises as `artefact.save` does."""
    save(path, "heads", target, heads, asdict(heads.settings), facts)


def load_heads(path: str | Path, target: Target) -> Heads:
    """Read the heads of this model, ready to be applied.

    Raises:
        ArtefactError: the file is not one of this model's heads, or is damaged.
    """
    artefact = load(path, "heads", target)
    with torch.device("meta"):
        heads = make_heads(read_settings(artefact, SETTINGS), target)
    fill(heads, artefact)
    return place_heads(heads, target).to(target.model.dtype)


def place_heads(heads: Heads, target: Target) -> Heads:
    """To where the last hidden state is: a model may be spread over devices."""
    device = projection(target).weight.device
    return heads.to(target.device if device.type == "meta" else device)


def projection(target: Target) -> Any:
    """The module that turns the last hidden state into logits.

    Raises:
        ModelError: the model has none.
    """
    found = target.model.get_output_embeddings()
    if not isinstance(found, nn.Module):
        raise ModelError(
            f"{target.architecture} has no output projection that heads could share",
            hint="heads need a causal language model such as Llama, Qwen or GPT-2",
        )
    return found


def final_states(target: Target, ids: Tensor, **inputs: Any) -> Tensor:
    """What the vocabulary projection is applied to, after each token.  # (B, T) -> (B, T, d)

    Taken at the projection's input, since models scale or project their states before it in
    different ways. The projection itself is left out.
    """
    seen: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden[..., :1]

    with Patch([(projection(target), keep)]):
        target.model(input_ids=ids, **{"use_cache": False, **inputs})
    return seen[0]


def _through(blocks: Any, hidden: Tensor) -> Tensor:
    state = hidden
    for block in blocks:
        state = state + silu(block(state.to(block.weight.dtype))).to(state.dtype)
    return state


def _silent(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    _silence(layer)
    return layer


def _silence(layer: nn.Linear) -> None:
    """Weights and bias: a bias left at random would move every state."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
