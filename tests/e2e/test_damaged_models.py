"""Models with damaged weights or too small an embedding end every command in one line."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.command_line import Cli, expect_error
from support.tiny import byte_tokenizer, tiny_llama

FINAL, FIRST = "model.norm.weight", "model.layers.0.input_layernorm.weight"
COMMANDS = (
    ("search", "--trials", "4", "--prompts", "{prompts}"),
    ("run", "--prompt", "abc"),
    ("run", "--prompt", "abc", "--method", "layer-skip:exit_layer=2"),
    ("bench", "--methods", "plain,suffix", "--prompts", "{prompts}"),
)


def saved(folder: Path, vocabulary: int = 257) -> Path:
    tokenizer: Any = byte_tokenizer()
    tiny_llama(3, vocabulary=vocabulary).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(cli: Cli, command: tuple[str, ...], model: Path, prompts: Path) -> Any:
    name, *options = (part.format(prompts=prompts) for part in command)
    return cli(name, model, *options, "-q")


@pytest.mark.parametrize(
    ("weight", "words"), [(FINAL, ["new token 1", "NaN", "checkpoint"]), (FIRST, ["not finite"])]
)
def test_a_weight_that_is_not_a_number_ends_every_command(
    cli: Cli, tmp_path_factory: pytest.TempPathFactory, prompts: Path, weight: str,
    words: list[str],
) -> None:  # fmt: skip
    model = saved(tmp_path_factory.mktemp("damaged"))
    weights = load_file(model / "model.safetensors")
    weights[weight][3] = math.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    for command in COMMANDS:
        expect_error(run(cli, command, model, prompts), 1, *words)
        assert os.listdir() == [prompts.name]


def test_a_prompt_token_without_an_embedding_ends_every_command(
    cli: Cli, tmp_path_factory: pytest.TempPathFactory, prompts: Path
) -> None:
    """The tokenizer has 257 tokens; that of a space is one of the last."""
    model = saved(tmp_path_factory.mktemp("small"), vocabulary=200)
    assert cli("run", model, "--prompt", "abc", "--max-new-tokens", 4, "-q").code == 0
    for command in (*COMMANDS[:1], ("run", "--prompt", "a b"), *COMMANDS[3:]):
        expect_error(run(cli, command, model, prompts), 1, "tokens are 0 to 199", "tokenizer")
