"""Layers of every form: their sublayers are found, skipped and restored."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from support.architecture_contract import (
    CLOSE,
    LONG,
    forwards,
    logits_of,
    masks_of,
)
from support.architectures import WINDOW
from torch import Tensor, nn
from transformers import DynamicCache

from skipopt.errors import MaskError
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.models.text_states import cache_argument
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target


def skipped_logits(target: Target, mask: SkipMask) -> Tensor:
    with skipping(target, mask):
        return logits_of(target)


def test_every_layer_is_found_in_order(target: Target) -> None:
    assert target.depth == target.model.config.num_hidden_layers
    assert [layer.index for layer in target.layers] == list(range(target.depth))


def test_every_sublayer_matters(target: Target) -> None:
    whole = logits_of(target)
    for position in range(2 * target.depth):
        changed = skipped_logits(target, SkipMask(target.depth, frozenset({position})))
        assert float((changed - whole).abs().max()) > 0.01, position


def test_the_empty_mask_changes_nothing(target: Target) -> None:
    assert torch.equal(skipped_logits(target, SkipMask.empty(target.depth)), logits_of(target))


def test_only_embedding_norm_and_head_are_left_when_all_is_skipped(target: Target) -> None:
    everything = SkipMask(target.depth, frozenset(range(2 * target.depth)))
    skipped = skipped_logits(target, everything)
    remove_layers(bare := copy.deepcopy(target))
    assert torch.equal(skipped, logits_of(bare))


def remove_layers(target: Target) -> None:
    first = target.layers[0].block.module
    for module in target.model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and first in list(child):
                setattr(module, name, nn.ModuleList())


def test_a_layer_skipped_whole_equals_its_halves_skipped_one_by_one(target: Target) -> None:
    depth = target.depth
    with skipping(target, SkipMask.of(depth, attention=[1])):
        halves = skipped_logits(target, SkipMask.of(depth, mlp=[1]))
    assert torch.equal(halves, skipped_logits(target, SkipMask.of(depth, attention=[1], mlp=[1])))


def test_a_mask_of_another_depth_is_refused(target: Target) -> None:
    with pytest.raises(MaskError, match=f"has {target.depth}"):
        skipping(target, SkipMask.empty(target.depth + 1))


def test_skipping_restores_every_forward(target: Target) -> None:
    assert_no_trace(target)


def test_hooks_and_forwards_added_after_loading_survive_skipping(target: Target) -> None:
    hooked = copied(target)
    hook(hooked)
    assert_no_trace(hooked)


def test_hooks_and_forwards_added_before_loading_survive_skipping(target: Target) -> None:
    hooked = copied(target)
    hook(hooked)
    again = make_target(hooked.model, None, runtime="eager")
    assert torch.equal(logits_of(again), logits_of(target))
    assert_no_trace(again)


def test_nested_masks_leave_no_trace(target: Target) -> None:
    before = forwards(target.model)
    outer, inner = (skipping(target, mask) for mask in masks_of(target)[-2:])
    for _ in range(2):
        with outer:
            between = forwards(target.model)
            with inner:
                pass
            assert forwards(target.model) == between
        assert forwards(target.model) == before


def copied(target: Target) -> Target:
    return make_target(copy.deepcopy(target.model), None, runtime="eager")


def hook(target: Target) -> None:
    """Add hooks of accelerate to layers and attentions, and a replaced forward to MLPs."""
    hooks = pytest.importorskip("accelerate.hooks")
    for layer in target.layers:
        hooks.add_hook_to_module(layer.block.module, hooks.ModelHook())
        for branch in layer.attention:
            hooks.add_hook_to_module(branch.module, hooks.ModelHook())
        for branch in layer.mlp:
            branch.module.forward = partial(type(branch.module).forward, branch.module)


def assert_no_trace(target: Target) -> None:
    before, expected = forwards(target.model), logits_of(target)
    for mask in masks_of(target):
        changed = skipped_logits(target, mask)
        assert not torch.equal(changed, expected), "the mask was not applied"
        with pytest.raises(ValueError, match="on purpose"), skipping(target, mask):
            raise ValueError("on purpose")
        assert forwards(target.model) == before
    assert torch.equal(logits_of(target), expected)


@torch.inference_mode()
def test_drafting_sees_the_whole_models_keys_and_values(target: Target) -> None:
    """Three draft steps on the shared cache equal those on the cache of transformers."""
    engine = Engine(target, len(LONG) + 3)
    engine.prefill(LONG[:-1])
    whole = DynamicCache()
    target.model(input_ids=torch.tensor([LONG[:-1]]), **given(target, whole))
    for mask in masks_of(target):
        cache = copy.deepcopy(whole)
        with skipping(target, mask):
            for position, token in enumerate([LONG[-1], 7, 50], start=len(LONG) - 1):
                ours = engine.step([token])[0]
                theirs = step_of_transformers(target, cache, token, position)
                assert torch.allclose(ours, theirs, atol=CLOSE, rtol=0), f"{mask} at {position}"
        engine.rewind(len(LONG) - 1)


def given(target: Target, cache: DynamicCache) -> dict[str, Any]:
    return {cache_argument(target.model): cache, "use_cache": True}


def step_of_transformers(target: Target, cache: DynamicCache, token: int, position: int) -> Tensor:
    """One decoding step. Skipped layers get an unused row, so that all layers have one length."""
    output = target.model(
        input_ids=torch.tensor([[token]]),
        position_ids=torch.tensor([[position]]),
        **given(target, cache),
    )
    layers: Any = cache.layers
    for layer in layers:
        if layer.get_seq_length() == position:
            layer.update(*(torch.zeros_like(t[:, :, :1]) for t in (layer.keys, layer.values)))
    logits: Tensor = output.logits[0, -1]
    return logits


def test_nothing_of_a_rejected_draft_is_left(target: Target) -> None:
    engine = Engine(target, 2 * len(LONG))
    engine.prefill(LONG[:WINDOW])
    for mask in masks_of(target):
        with skipping(target, mask):
            for token in (1, 2, 3):
                engine.step([token])
        engine.rewind(WINDOW)
        engine.step([90, 91, 92])
        engine.rewind(WINDOW)
        after = engine.step(LONG[WINDOW:])
        engine.rewind(WINDOW)
        assert torch.allclose(after, logits_of(target)[WINDOW:], atol=CLOSE, rtol=0)
