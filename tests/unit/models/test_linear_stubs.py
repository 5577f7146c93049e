"""Layers are proved on stubs of linear layers, with the result of the model as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.architectures import FORMS, build
from support.tiny import tiny_target
from torch import nn

from skipopt.errors import ModelError
from skipopt.models.decoder_stack import layer_list
from skipopt.models.linear_stubs import linear_stubs
from skipopt.models.proof import find_sublayers, prove_layers
from skipopt.models.sublayers import evaluating


@pytest.mark.parametrize("name", FORMS)
def test_layers_proved_on_stubs_are_those_of_the_model_as_it_is(name: str) -> None:
    model = build(name)
    with evaluating(model):
        expected = prove_layers(model, *layer_list(model))
        with linear_stubs(model):
            found = prove_layers(model, *layer_list(model))
    assert found == expected


def tiny_model() -> Any:
    return tiny_target().model.eval()


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


@torch.no_grad()
def test_the_proof_reads_no_weights_of_linear_layers() -> None:
    model = tiny_model()
    expected = find_sublayers(model)
    for linear in linears(model.model):
        linear.weight.fill_(torch.nan)
    assert find_sublayers(model) == expected
    with pytest.raises(ModelError, match="not finite"):
        prove_layers(model, *layer_list(model))


@torch.no_grad()
def test_where_stubs_overflow_the_model_as_it_is_decides() -> None:
    model = tiny_model()
    for layer in model.model.layers:
        layer.post_attention_layernorm.weight.fill_(1e30)
        layer.mlp.up_proj.weight.zero_()
    with linear_stubs(model), pytest.raises(ModelError, match="not finite"):
        prove_layers(model, *layer_list(model))
    assert find_sublayers(model) == prove_layers(model, *layer_list(model))


@torch.no_grad()
def test_values_that_are_not_finite_are_refused() -> None:
    model = tiny_model()
    model.get_input_embeddings().weight.fill_(torch.inf)
    with pytest.raises(ModelError, match=r"model\.layers\.0 .* not finite") as caught:
        find_sublayers(model)
    assert caught.value.hint


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 6), (6, 9), (9, 6), (12, 4), (1, 5)])
def test_a_stub_depends_on_every_entry_of_its_input(inputs: int, outputs: int) -> None:
    linear = nn.Linear(inputs, outputs)
    rows = torch.rand(2, 3, inputs)
    with linear_stubs(linear):
        found = linear(rows)
        assert found.shape == (2, 3, outputs)
        assert inputs != outputs or not torch.equal(found, rows)
        for entry in range(inputs):
            changed = rows.clone()
            changed[..., entry] += 1
            assert not torch.equal(linear(changed), found), entry


def test_a_stub_refuses_rows_of_another_width_and_leaves_no_trace() -> None:
    linear = nn.Linear(4, 4)
    rows = torch.rand(2, 4)
    expected = linear(rows)
    with linear_stubs(linear), pytest.raises(RuntimeError, match="3 entries, not 4"):
        linear(rows[:, :3])
    assert torch.equal(linear(rows), expected)


def test_layers_whose_forward_was_replaced_run_as_they_are() -> None:
    linear = nn.Linear(4, 4)
    linear.forward = torch.zeros_like  # type: ignore[method-assign]
    with linear_stubs(linear):
        assert torch.equal(linear(torch.ones(4)), torch.zeros(4))
