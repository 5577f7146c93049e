"""Tiny random models of many architectures: those of the contract suite, and more."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from skipopt.kernels import quantized_linear
from skipopt.models.target import Target
from skipopt.runtime.load import make_target

TESTS = Path(__file__).parent.parent / "tests"
SLIDING = {
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
SHARED_EXPERT = {**EXPERTS, "n_routed_experts": 4, "first_k_dense_replace": 1}
HALF_ROTARY = {"partial_rotary_factor": 0.5}

# name: base settings of the contract suite, configuration class, more settings
MORE: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "gemma": ("WIDE_HEADS", "GemmaConfig", {}),
    "phi": ("GROUPED", "PhiConfig", HALF_ROTARY),
    "gptj": ("GPT2", "GPTJConfig", {"rotary_dim": 4, "n_inner": 48}),
    "codegen": ("GPT2", "CodeGenConfig", {"n_ctx": 128, "rotary_dim": 4, "n_inner": 48}),
    "gpt_bigcode": ("GPT2", "GPTBigCodeConfig", {"n_inner": 48}),
    "cohere": ("GROUPED", "CohereConfig", {}),
    "cohere2": ("GROUPED", "Cohere2Config", SLIDING),
    "olmo": ("GROUPED", "OlmoConfig", {}),
    "olmo3": ("GROUPED", "Olmo3Config", SLIDING),
    "olmoe": ("GROUPED", "OlmoeConfig", {"num_experts": 4, "num_experts_per_tok": 2}),
    "glm": ("WIDE_HEADS", "GlmConfig", HALF_ROTARY),
    "glm4": ("WIDE_HEADS", "Glm4Config", HALF_ROTARY),
    "smollm3": ("GROUPED", "SmolLM3Config", {}),
    "exaone4": ("GROUPED", "Exaone4Config", SLIDING),
    "ernie4_5": ("WIDE_HEADS", "Ernie4_5Config", {}),
    "nemotron": ("GROUPED", "NemotronConfig", {}),
    "persimmon": ("SMALL", "PersimmonConfig", HALF_ROTARY),
    "qwen3_moe": ("WIDE_HEADS", "Qwen3MoeConfig", {**EXPERTS, "num_experts": 4}),
    "qwen2_moe": (
        "GROUPED",
        "Qwen2MoeConfig",
        {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16},
    ),
    "granitemoe": (
        "GROUPED",
        "GraniteMoeConfig",
        {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "deepseek_v2": (
        "LATENT",
        "DeepseekV2Config",
        {"q_lora_rank": None, "first_k_dense_replace": 1},
    ),
    "deepseek_v3": ("LATENT", "DeepseekV3Config", {"q_lora_rank": 16, "first_k_dense_replace": 1}),
    "dots1": (
        "WIDE_HEADS",
        "Dots1Config",
        {**SHARED_EXPERT, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    ),
    "hunyuan": ("WIDE_HEADS", "HunYuanDenseV1Config", {}),
    "seed_oss": ("WIDE_HEADS", "SeedOssConfig", {}),
    "arcee": ("GROUPED", "ArceeConfig", {}),
    "diffllama": ("GROUPED", "DiffLlamaConfig", {}),
    "bitnet": ("GROUPED", "BitNetConfig", {}),
    "apertus": ("GROUPED", "ApertusConfig", {}),
    "ministral": ("WIDE_HEADS", "MinistralConfig", {"sliding_window": 8}),
    "phimoe": ("GROUPED", "PhimoeConfig", {"num_local_experts": 4}),
    "vaultgemma": ("WIDE_HEADS", "VaultGemmaConfig", SLIDING),
    "gpt_oss": (
        "WIDE_HEADS",
        "GptOssConfig",
        {**SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "minimax_m2": (
        "WIDE_HEADS",
        "MiniMaxM2Config",
        {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "jetmoe": ("GROUPED", "JetMoeConfig", {"num_local_experts": 4}),
}


@dataclass(frozen=True, slots=True)
class Model:
    """One architecture.

    Attributes:
        build: makes the model, with the same weights every time.
    """

    name: str
    build: Callable[[], Any]

    def target(self, runtime: str) -> Target:
        """The model, ready to decode."""
        return make_target(self.build(), None, runtime=runtime)


def models(names: Sequence[str] | None = None) -> list[Model]:
    """All models, or those of these names.

    Raises:
        SystemExit: an unknown name.
    """
    suite, rope = _support("architectures"), _support("rope")
    found = [
        *(Model(name, partial(suite.build, name)) for name in suite.SKIPPABLE),
        *(Model(name, partial(rope.build, name)) for name in rope.RECIPES),
        *(
            Model(name, partial(_build, suite, *MORE[name]))
            for name in MORE
            if name not in suite.SKIPPABLE
        ),
    ]
    if names is None:
        return found
    by_name = {model.name: model for model in found}
    if unknown := [name for name in names if name not in by_name]:
        raise SystemExit(f"no architecture {unknown[0]!r}; there are: {', '.join(by_name)}")
    return [by_name[name] for name in names]


def _build(suite: Any, base: str, config: str, settings: Mapping[str, Any]) -> Any:
    """A model as the contract suite builds its own."""
    with patch.dict(suite.SKIPPABLE, {"": (config, {**getattr(suite, base), **settings})}):
        return suite.build("")


class Checkpoints:
    """Untrained heads and mask tokens, by the words that stand for them in methods."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, target: Target) -> dict[str, str]:
        """Make those of a target, in the place of the last one's."""
        names: dict[str, str] = _support("drafters").untrained_checkpoints(target, self._folder)
        return names


def quantized_always() -> AbstractContextManager[Any]:
    """Inside, drafts read quantized weights, which would not pay in models so small."""

    def seconds(operations: Sequence[Any], *_: object) -> float:
        name = operations[0].__qualname__
        return 0.5 if name.startswith(("int", "_layer.")) else 1.0

    return patch.object(quantized_linear, "measure_seconds", seconds)


def _support(name: str) -> Any:
    """A module of `tests/support`."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    return importlib.import_module(f"support.{name}")
