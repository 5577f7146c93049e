"""Heads that predict several future tokens from the target's last hidden state.

Two architectures: `ffn`, one network for all heads (blockwise parallel decoding, Stern et al.,
arXiv 1811.03115, §4.1), and `medusa`, residual blocks for each head (Medusa, arXiv 2401.10774,
§2.1.1). Both map a hidden state to k states. The target's own output projection turns these into
logits, so a checkpoint does not contain one.
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
    """k = `count` heads with one common hidden layer of count · `units` units."""

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
    """k heads; head i (from 0) predicts the token i + 2 positions after the token of its input.

    The target itself predicts the token one position after it. New heads return the state
    unchanged, so their logits are the target's until they are trained.

    Attributes:
        settings: the architecture; `settings.count` is k.
    """

    settings: HeadSettings

    def states(self, hidden: Tensor) -> Tensor:
        """The inputs of the output projection.  # (…, d) -> (k, …, d)"""
        raise NotImplementedError

    def logits(self, hidden: Tensor, target: Target) -> Tensor:
        """The logits of each head.  # (…, d) -> (k, …, V)

        The scaling or capping that some models apply to their logits (Granite, Cohere, Gemma 2) is
        left out. It is monotonic, so the most likely token is the same, but probabilities differ.
        """
        logits: Tensor = projection(target)(self.states(hidden))
        return logits


class FeedForwardHeads(Heads):
    """One network d → k·d_ff → k·d for all heads, and a residual connection for each head.

    Blockwise parallel decoding (arXiv 1811.03115, §4.1 and figure 3).
    """

    def __init__(self, settings: FeedForwardSettings, width: int) -> None:
        super().__init__()
        self.settings = settings
        inner = settings.count * settings.units
        self.first = nn.Linear(width, inner)
        self.second = nn.Linear(inner, settings.count * width)
        _init_zero(self.second)

    def states(self, hidden: Tensor) -> Tensor:
        inner = relu(self.first(hidden.to(self.first.weight.dtype)))
        change = self.second(inner).unflatten(-1, (self.settings.count, -1))  # (…, k, d)
        changed: Tensor = hidden + change.movedim(-2, 0).to(hidden.dtype)
        return changed


class MedusaHeads(Heads):
    """For each head a stack of residual blocks h + SiLU(W·h + b); W = 0 and b = 0 at first.

    Medusa-1 (arXiv 2401.10774, §2.1.1).
    """

    def __init__(self, settings: MedusaSettings, width: int) -> None:
        super().__init__()
        self.settings = settings
        self.heads = nn.ModuleList(
            nn.ModuleList(_zero_linear(width) for _ in range(settings.blocks))
            for _ in range(settings.count)
        )

    def states(self, hidden: Tensor) -> Tensor:
        return torch.stack([_apply_blocks(blocks, hidden) for blocks in self.heads])


def make_heads(settings: HeadSettings, target: Target) -> Heads:
    """New heads for this model; they return its hidden states unchanged.

    Raises:
        ModelError: the model has no output projection.
    """
    width = projection(target).weight.shape[-1]
    if isinstance(settings, FeedForwardSettings):
        return FeedForwardHeads(settings, width)
    return MedusaHeads(settings, width)


def save_heads(path: str | Path, heads: Heads, target: Target, facts: dict[str, Any]) -> None:
    """Write heads and the metrics of their training to a checkpoint.

    Raises:
        OutputError: the file cannot be written.
    """
    save(path, "heads", target, heads, asdict(heads.settings), facts)


def load_heads(path: str | Path, target: Target) -> Heads:
    """Read heads for this model, on its device and in its dtype.

    Raises:
        CheckpointError: the file has no heads for this model, or is damaged.
    """
    checkpoint = load(path, "heads", target)
    with torch.device("meta"):
        heads = make_heads(read_settings(checkpoint, SETTINGS), target)
    fill(heads, checkpoint)
    return place_heads(heads, target).to(target.model.dtype)


def place_heads(heads: Heads, target: Target) -> Heads:
    """Move heads to the device of the output projection; a model may be on several devices."""
    device = projection(target).weight.device
    return heads.to(target.device if device.type == "meta" else device)


def projection(target: Target) -> Any:
    """The output projection: the module that turns the last hidden state into logits.

    Raises:
        ModelError: the model has none.
    """
    head = target.model.get_output_embeddings()
    if not isinstance(head, nn.Module):
        raise ModelError(
            f"{target.architecture} has no output projection that heads could share",
            hint="heads need a causal language model such as Llama, Qwen or GPT-2",
        )
    return head


def final_states(target: Target, ids: Tensor, **inputs: Any) -> Tensor:
    """The input of the output projection after each token.  # (B, T) -> (B, T, d)

    Models scale or project their hidden states in different ways before the output projection, so
    its input is captured there. The projection itself is not computed.
    """
    states: list[Tensor] = []

    def capture(hidden: Tensor) -> Tensor:
        states.append(hidden)
        return hidden[..., :1]

    with Patch([(projection(target), capture)], lock=target.runtime.lock):
        target.model(input_ids=ids, **{"use_cache": False, **inputs})
    return states[0]


def _apply_blocks(blocks: Any, hidden: Tensor) -> Tensor:
    """The residual blocks of one head, each computed in the dtype of its weights."""
    state = hidden
    for block in blocks:
        state = state + silu(block(state.to(block.weight.dtype))).to(state.dtype)
    return state


def _zero_linear(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    _init_zero(layer)
    return layer


def _init_zero(layer: nn.Linear) -> None:
    """Set weight and bias to 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
