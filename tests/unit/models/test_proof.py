"""Sublayers are found and proved by what they do, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from support.tiny import tiny_llama, tiny_prompts, tiny_target
from torch import Tensor, nn

from skipopt.decoding.api import generate_rounds
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.profile import Profile

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])


class Renamed(nn.Module):
    """A layer of Llama whose modules have other names."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.before_looking, self.looks = layer.input_layernorm, layer.self_attn
        self.before_thinking, self.thinks = layer.post_attention_layernorm, layer.mlp

    def forward(self, stream: Tensor, **options: Any) -> Tensor:
        stream = stream + self.look(stream, options)
        return stream + self.think(stream)

    def look(self, stream: Tensor, options: Any) -> Tensor:
        seen: Tensor = self.looks(hidden_states=self.before_looking(stream), **options)[0]
        return seen

    def think(self, stream: Tensor) -> Tensor:
        thought: Tensor = self.thinks(self.before_thinking(stream))
        return thought


class Scaled(Renamed):
    """What the layer returns is scaled at its end."""

    def forward(self, stream: Tensor, **options: Any) -> Tensor:
        return 0.9 * super().forward(stream, **options)


class NormalizedAfter(Renamed):
    """The stream is normalized after each sublayer, as in GPT and BERT."""

    def forward(self, stream: Tensor, **options: Any) -> Tensor:
        stream = self.before_looking(stream + self.looks(hidden_states=stream, **options)[0])
        normalized: Tensor = self.before_thinking(stream + self.thinks(stream))
        return normalized


class Adds(nn.Module):
    """Adds what a module computes to the residual that it is given, as in Bloom."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        added: Tensor = residual + self.module(hidden)
        return added


class AddsInside(Renamed):
    """The residual of one sublayer is added inside it."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.thinks = Adds(self.thinks)

    def forward(self, stream: Tensor, **options: Any) -> Tensor:
        stream = stream + self.look(stream, options)
        thought: Tensor = self.thinks(self.before_thinking(stream), stream)
        return thought


class AddsItsInput(nn.Module):
    """Adds what modules compute to what they are given, and is given nothing else."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.modules_inside = nn.Sequential(*modules)

    def forward(self, hidden: Tensor) -> Tensor:
        added: Tensor = hidden + self.modules_inside(hidden)
        return added


class AddsUnseen(Renamed):
    """A sublayer of which nothing can be left out: its residual is its only input."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.thinks = AddsItsInput(self.before_thinking, self.thinks)

    def forward(self, stream: Tensor, **options: Any) -> Tensor:
        thought: Tensor = self.thinks(stream + self.look(stream, options))
        return thought


def target_of(layer_class: Callable[[Any], nn.Module], runtime: str = "eager") -> Target:
    model = tiny_llama()
    layers = model.model.layers
    for index, layer in enumerate(list(layers)):
        layers[index] = layer_class(layer).eval()
    return tiny_target(model, runtime=runtime)


@torch.inference_mode()
def logits(target: Target, mask: SkipMask | None = None) -> Tensor:
    with skipping(target, mask or SkipMask.empty(target.depth)):
        found: Tensor = target.model(input_ids=TOKENS, use_cache=False).logits
    return found


def no_output(width: int, hidden: Tensor) -> Tensor:
    return hidden.new_zeros(*hidden.shape[:-1], width)


PROVED = (Renamed, Scaled, NormalizedAfter, AddsInside)


@pytest.mark.parametrize("layer_class", PROVED)
def test_modules_of_any_name_are_found(layer_class: Any) -> None:
    target = target_of(layer_class)
    for layer in target.layers:
        assert [each.module for each in layer.attention] == [layer.block.module.looks]
        assert [each.module for each in layer.mlp] == [layer.block.module.thinks]
        assert layer.passes_unchanged is (layer_class in (Renamed, AddsInside))


@pytest.mark.parametrize("layer_class", PROVED)
def test_a_skipped_sublayer_adds_nothing_and_the_rest_of_the_layer_is_as_it_was(
    layer_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = target_of(layer_class)
    for position in range(2 * target.depth):
        found = logits(target, SkipMask(target.depth, frozenset({position})))
        layer = target.layers[position // 2].block.module
        module = layer.thinks if position % 2 else layer.looks
        projection = getattr(module, "module", module)
        projection = projection.down_proj if position % 2 else projection.o_proj
        with monkeypatch.context() as patch:
            patch.setattr(projection, "forward", partial(no_output, projection.out_features))
            assert torch.allclose(found, logits(target), atol=1e-5), position


def test_a_layer_that_scales_its_output_does_so_without_its_sublayers() -> None:
    scaled, plain = target_of(Scaled), target_of(Renamed)
    depth = scaled.depth
    everything = SkipMask(depth, frozenset(range(2 * depth)))
    norm = scaled.model.model.norm
    given: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    logits(scaled, everything)
    hook.remove()
    embedded = plain.model.get_input_embeddings()(TOKENS)
    assert torch.allclose(given[0], 0.9**depth * embedded)


def test_a_sublayer_without_a_proof_is_kept_and_the_model_decodes() -> None:
    target = target_of(AddsUnseen)
    assert target.skippable == frozenset()
    everything = SkipMask(target.depth, frozenset(range(2 * target.depth)))
    assert torch.equal(logits(target, everything), logits(target))
    profile = Profile.by_hand(target, mlp=[0, 1], gamma=3)
    prompt = tiny_prompts(1)[0]
    texts = [
        [token for each in rounds for token in each.emitted]
        for rounds in (
            generate_rounds(target, prompt, profile=profile, max_new_tokens=12),
            generate_rounds(target, prompt, method="plain", max_new_tokens=12),
        )
    ]
    assert texts[0] == texts[1]
