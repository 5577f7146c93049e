"""Tiny mixtures of experts, one of them of classes that nobody listed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tools.tiny_models import randomize, tiny_model

CHOSEN = 2  # experts for each token
# By type: the setting that says so, and whether an expert is shared by all tokens.
TYPES = {
    "mixtral": ("num_experts_per_tok", False),
    "qwen2_moe": ("num_experts_per_tok", True),
    "qwen3_moe": ("num_experts_per_tok", False),
    "olmoe": ("num_experts_per_tok", False),
    "deepseek_v2": ("num_experts_per_tok", True),
    "deepseek_v3": ("num_experts_per_tok", True),
    "granitemoe": ("num_experts_per_tok", False),
    "gpt_oss": ("num_experts_per_tok", False),
}


def mixture(name: str, chosen: int = CHOSEN) -> Any:
    """A model of this type, with the same weights however many experts are chosen."""
    return tiny_model(name, **{TYPES[name][0]: chosen})


class Crossroads(nn.Module):
    """Experts in a list, chosen by a linear layer, as remote code often has them.

    Args:
        attribute: what the number of experts for a token is called.
    """

    def __init__(self, attribute: str = "num_experts_per_tok", width: int = 32) -> None:
        super().__init__()
        self.signpost = nn.Linear(width, 4, bias=False)
        self.roads = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(4))
        self.attribute = attribute
        setattr(self, attribute, CHOSEN)

    def forward(self, hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, -2)
        weights, chosen = self.signpost(rows).softmax(-1).topk(getattr(self, self.attribute), -1)
        every = torch.stack([road(rows) for road in self.roads], 1)
        taken = every.gather(1, chosen[..., None].expand(-1, -1, rows.shape[-1]))
        return (taken * weights[..., None]).sum(1).view_as(hidden)


def renamed_mixture(attribute: str = "num_experts_per_tok") -> Any:
    """A model with `Crossroads` for its MLPs."""
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=128, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for layer in model.model.layers:
            layer.mlp = Crossroads(attribute)
        randomize(model)
    return model.eval()
