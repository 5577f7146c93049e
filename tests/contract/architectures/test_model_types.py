"""The types of models that matter most do what the page of models says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from skipopt.testing.architectures import (
    CHECKS,
    QUICK_CHECKS,
    check_accepted_drafts,
    check_captured_steps,
    check_greedy,
    check_masks,
    check_quantized_draft,
    check_save_and_load,
    check_scoring,
)
from tools.make_models_page import Row, page, read_page, try_apart, try_type

pytestmark = pytest.mark.slow  # all of them together: minutes

# `make models` tries every type that transformers has, with a search, and saved and loaded again.
TYPES = (
    "bloom", "cohere2", "deepseek_v3", "deepseek_v32", "falcon", "falcon_h1", "gemma2",
    "gemma3", "gemma3_text", "gemma3n_text", "gemma4_text", "glm4", "glm4_moe", "glm_moe_dsa",
    "gpt2", "gpt_neox", "gpt_oss", "granite", "granitemoehybrid", "kimi_linear", "lfm2",
    "llama", "llama4_text", "ministral3", "mistral", "mixtral", "nemotron_h", "olmo2", "olmo3",
    "opt", "phi", "phi3", "qwen2", "qwen3", "qwen3_5_text", "qwen3_moe", "qwen3_next",
    "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
# A plain one, one with states and one with shared keys are also searched, saved and loaded.
TRIED_IN_FULL = ("gemma4_text", "llama", "qwen3_next")
# Encoders by default, whose cache has a part for the text of an encoder.
WITH_TWO_CACHES = ("megatron-bert", "rembert", "roc_bert")
# Their cache is known to the model only; in the last ones, a layer runs several times or never.
WITH_OWN_CACHE = (
    "deepseek_v4", "minimax", "qwen4_exp_text", "rwkv", "xlstm",
    "hrm_text", "longcat_flash", "mllama",
)  # fmt: skip
WORKS = Row("llama", "works", "3 of 4", "4 of 4", "yes", "yes", "native")


@pytest.mark.parametrize("model_type", TYPES)
def test_a_type_works_as_the_page_says(model_type: str) -> None:
    found = try_type(model_type, CHECKS if model_type in TRIED_IN_FULL else QUICK_CHECKS)
    assert found.outcome in ("works", "refused"), found
    assert not found.is_worse_than(read_page()[model_type]), found


@pytest.mark.parametrize("model_type", WITH_TWO_CACHES)
def test_a_decoder_with_a_cache_for_an_encoder_works(model_type: str) -> None:
    found = try_type(model_type, (check_greedy, check_accepted_drafts, check_captured_steps))
    assert found.outcome == "works", found
    assert found.steps != "eager"
    assert found.trees


@pytest.mark.parametrize("model_type", WITH_OWN_CACHE)
def test_a_model_with_a_cache_of_its_own_works(model_type: str) -> None:
    checks = (check_greedy, check_masks, check_accepted_drafts, check_quantized_draft)
    if model_type == "qwen4_exp_text":  # its config is not saved without an end of text
        checks = (*checks, check_save_and_load)
    found = try_type(model_type, checks)
    assert found.outcome == "works", found
    assert found.attention == "0 of 1" if model_type == "hrm_text" else "0 of 4"
    assert (found.mlp[0] == "0") == (model_type == "rwkv")  # its MLP keeps states too
    assert found.trees == "no"


# Rows of these are told apart by the order in which they are stored, in some or in all layers.
@pytest.mark.parametrize("model_type", ["gpt_neo", "inkling2_text", "inkling_text", "moshi"])
def test_a_model_that_goes_by_the_order_of_rows_is_not_scored(model_type: str) -> None:
    found = try_type(model_type, (check_greedy, check_masks, check_scoring))
    assert found.outcome == "works", found
    assert found.search == "no"
    assert "cannot be scored" in found.reason


def test_a_model_whose_attention_is_hashed_is_refused() -> None:
    assert try_type("reformer", ()).outcome == "refused"


@pytest.mark.parametrize("model_type", ["openai-gpt", "recurrent_gemma"])
def test_a_model_without_a_cache_reads_its_text_again(model_type: str) -> None:
    found = try_type(model_type, (check_greedy, check_masks, check_captured_steps))
    assert "reads the text from its start" in found.reason
    assert (found.outcome, found.attention, found.mlp) == ("works", "4 of 4", "4 of 4"), found


@pytest.mark.parametrize(
    ("row", "worse"),
    [
        (WORKS, False),
        (Row("llama", "works", "4 of 4", "4 of 4", "yes", "yes", "eager"), False),
        (Row("llama", "works", "3 of 4", "3 of 4", "yes", "yes", "native"), True),
        (Row("llama", "works", "3 of 4", "4 of 4", "no", "yes", "native"), True),
        (Row("llama", "works", "3 of 4", "4 of 4", "yes", "no", "native"), True),
        (Row("llama", "refused", reason="it has no layers"), True),
    ],
)
def test_a_type_that_does_less_than_before_is_worse(row: Row, worse: bool) -> None:
    assert row.is_worse_than(WORKS) is worse
    assert not row.is_worse_than(Row("llama", "refused"))


def test_the_page_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [WORKS, Row("bert", "refused", reason="BertLMHeadModel is an encoder")]
    path = tmp_path / "models.md"
    path.write_text(page(rows, "5.0"), encoding="utf-8")
    assert list(read_page(path).values()) == rows


def test_a_type_that_takes_too_long_is_given_up() -> None:
    row = try_apart("llama", seconds=0)
    assert (row.outcome, row.reason) == ("error", "not done after 0 seconds")
