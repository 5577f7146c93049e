"""A small model in a folder, a profile of it, and a command line."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import Cli, command_line

from skipopt.draft_config import UNCHANGED, DraftConfig

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.models.target import Target

CONTEXT = 256


def small_llama(vocabulary: int) -> Any:
    """A model with random weights, large enough for skipping to change tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        eos_token_id=0,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    from support.tiny import byte_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = byte_tokenizer()
    small_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def profile(tiny: Path) -> Path:
    """A handmade profile with which some drafts are accepted and some are rejected."""
    import skipopt

    target = skipopt.load(tiny)
    made = skipopt.Profile.by_hand(target, attention=[1, 2], mlp=[2], gamma=4)
    path = tiny.parent / "profile.yaml"
    made.save(path)
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A file of twelve short prompts."""
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(f"def {name}(a, b):" for name in "abcdefghijkl"))
    return path


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """A function that runs a command line in an empty folder."""
    return command_line(monkeypatch, tmp_path, capsys)


@pytest.fixture(autouse=True)
def short_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default a search decodes short texts, once each."""
    from skipopt.study.config import SearchConfig

    defaults: dict[str, object] = vars(SearchConfig)["__init__"].__kwdefaults__
    short = {"calibration_tokens": 16, "validation_repeats": 1, "num_finalists": 2}
    for name, value in short.items():
        monkeypatch.setitem(defaults, name, value)


@pytest.fixture(autouse=True)
def quick_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search measures the costs of a model this small in a fraction of the usual time."""
    from skipopt.study.cost_source import MeasuredCosts

    def costs(
        self: MeasuredCosts,
        target: Target,
        context: Sequence[int],
        longest: int,
        seconds: float,
        draft_config: DraftConfig = UNCHANGED,
        most: float = inf,
    ) -> Costs:
        from skipopt.measurement.cost_measurement import measure_costs

        return measure_costs(
            target, context, longest, 0.1 * seconds, draft_config=draft_config, most=most
        )

    def with_trees_and_context(
        self: MeasuredCosts,
        target: Target,
        context: Sequence[int],
        costs: Costs,
        draft_config: DraftConfig = UNCHANGED,
    ) -> Costs:
        from skipopt.measurement.tree_cost_measurement import (
            measure_tree_and_context_costs as measure,
        )

        return measure(target, context, costs, seconds=0.1, draft_config=draft_config)

    monkeypatch.setattr(MeasuredCosts, "costs", costs)
    monkeypatch.setattr(MeasuredCosts, "with_trees_and_context", with_trees_and_context)
