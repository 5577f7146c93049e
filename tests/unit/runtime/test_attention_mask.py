"""Masks for full, sliding and chunked layers, and the models that take none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.masking_utils import create_sliding_window_causal_mask  # noqa: F401

from skipopt.errors import ModelError
from skipopt.runtime.attention_mask import (
    AttentionMaskFormat,
    attention_mask_format,
    causal,
    uses_causal_sdpa,
    within_window,
)

LOWEST = torch.finfo(torch.float16).min


class Model:
    """It takes positions, and this module has what builds masks of windows."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> None:
        raise NotImplementedError


class StoredOrder(Model):
    """It is given positions and does not read them."""

    def forward(self, input_ids: Tensor, **kwargs: Any) -> None:  # type: ignore[override]
        raise NotImplementedError


def model_of(model_class: type[Model] = Model, **settings: Any) -> Any:
    config = SimpleNamespace(**{"_attn_implementation": "sdpa", **settings})
    config.get_text_config = lambda decoder: config
    return model_class(config)


def form_of(**settings: Any) -> AttentionMaskFormat:
    return attention_mask_format(model_of(**settings))


def visible(mask: Tensor) -> list[list[list[int]]]:
    """The keys that each row attends to, by text."""
    assert set(mask.unique().tolist()) <= {0.0, LOWEST}
    return [[row.nonzero()[:, 0].tolist() for row in text[0] == 0] for text in mask]


def last_row(form: AttentionMaskFormat, length: int = 6) -> Any:
    """The mask of the last token of a text."""
    positions = torch.arange(length)
    attends = torch.ones(1, length, dtype=torch.bool)
    return form.build(attends, positions[-1:], positions, torch.float16)


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"sliding_window": None}, [0, 1, 2, 3, 4, 5]),
        ({"sliding_window": 3}, [3, 4, 5]),
        ({"sliding_window": 3, "use_sliding_window": False}, [0, 1, 2, 3, 4, 5]),
        ({"sliding_window": 3, "layer_types": ["full_attention"]}, [0, 1, 2, 3, 4, 5]),
        ({"sliding_window": 3, "layer_types": ["sliding_attention"]}, [3, 4, 5]),
        ({"attention_chunk_size": 4, "layer_types": ["chunked_attention"]}, [4, 5]),
        ({"attention_chunk_size": 4, "layer_types": ["full_attention"]}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_models_whose_layers_are_alike_take_one_mask(
    settings: dict[str, Any], seen: list[int]
) -> None:
    assert visible(last_row(form_of(**settings))) == [[seen]]


def test_models_that_mix_layer_types_take_a_mask_of_each() -> None:
    kinds = ["sliding_attention", "full_attention", "chunked_attention", "full_attention"]
    form = form_of(layer_types=kinds, sliding_window=2, attention_chunk_size=3)
    masks = last_row(form)
    assert {kind: visible(mask)[0][0] for kind, mask in masks.items()} == {
        "sliding_attention": [4, 5],
        "full_attention": [0, 1, 2, 3, 4, 5],
        "chunked_attention": [3, 4, 5],
    }


def test_windows_and_chunks_go_by_position_and_not_by_storage_order() -> None:
    """A tree's siblings share a position; the third row is a child of the first sibling."""
    attends = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1]], dtype=torch.bool)
    queries, keys = torch.tensor([4, 4]), torch.tensor([2, 3, 4, 4])
    sliding = AttentionMaskFormat(frozenset({"sliding_attention"}), sliding_window=2)
    assert visible(sliding.build(attends, queries, keys, torch.float16)) == [[[1, 2], [1, 3]]]
    chunked = AttentionMaskFormat(frozenset({"chunked_attention"}), chunk_size=4)
    assert visible(chunked.build(attends, queries, keys, torch.float16)) == [[[2], [3]]]


def test_texts_of_a_batch_have_positions_of_their_own() -> None:
    form = AttentionMaskFormat(frozenset({"sliding_attention"}), sliding_window=2)
    keys = torch.tensor([[0, 1, 2], [5, 6, 7]])
    attends = torch.ones(2, 1, 3, dtype=torch.bool)
    mask = form.build(attends, torch.tensor([[2], [7]]), keys, torch.float16)
    assert mask.shape == (2, 1, 1, 3)
    assert visible(mask) == [[[1, 2]], [[1, 2]]]


def test_rows_behind_a_context_attend_to_all_up_to_themselves() -> None:
    assert causal(2, 2, torch.device("cpu")).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_a_drafts_window_keeps_the_first_positions() -> None:
    positions = torch.arange(10)
    attends = torch.ones(1, 10, dtype=torch.bool)
    found = within_window(attends, positions[-1:], positions, 3)
    assert found[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 7, 8, 9]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"layer_types": ["full_attention", "linear_attention"]}, "layers of linear_attention"),
        ({"alibi": True}, "ALiBi"),
        ({"attention_layers": ["global", "local"]}, "local attention"),
        ({"attn_temperature_tuning": True}, "attention temperature"),
        ({"_attn_implementation": "flash_attention_2"}, "runs on flash_attention_2"),
    ],
)
def test_models_that_take_no_masks_say_why(settings: dict[str, Any], reason: str) -> None:
    form = form_of(**settings)
    assert form.unsupported_reason is not None
    assert not uses_causal_sdpa(model_of(**settings))
    with pytest.raises(ModelError, match=reason) as refusal:
        form.require_trees()
    assert "layer-skip" in str(refusal.value.hint)


def test_full_layers_on_sdpa_share_one_causal_mask() -> None:
    assert uses_causal_sdpa(model_of())
    assert not uses_causal_sdpa(model_of(sliding_window=3))
    assert not uses_causal_sdpa(model_of(layer_types=["chunked_attention"]))
    assert not uses_causal_sdpa(model_of(_attn_implementation="eager"))


def test_a_model_that_does_not_read_positions_takes_no_trees() -> None:
    form = attention_mask_format(model_of(StoredOrder))
    with pytest.raises(ModelError, match="positions count rows as they are stored"):
        form.require_trees()


def test_a_window_that_the_model_may_not_have_is_not_imitated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(globals(), "create_sliding_window_causal_mask")
    form = attention_mask_format(model_of(sliding_window=3))
    with pytest.raises(ModelError, match="window of its configuration is not known"):
        form.require_trees()
    stated = model_of(sliding_window=3, layer_types=["sliding_attention"])
    attention_mask_format(stated).require_trees()
