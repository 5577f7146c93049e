"""Drafts with fewer experts are those of a model that has so few, and the model stays as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.experts import CHOSEN, TYPES, Crossroads, mixture, renamed_mixture
from support.tiny import tiny_llama, tiny_target
from torch import Tensor

from skipopt.draft_config import DraftConfig
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.errors import ModelError, UsageError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from tools.tiny_models import tiny_model

TEXT = [5, 61, 17, 33, 9, 2]
SHARING = [name for name, (_, shared) in TYPES.items() if shared]
CLOSE = 1e-4


def after(engine: Engine, token: int = 7) -> Tensor:
    """The logits after the text and one token."""
    logits = engine.step([token])[0]
    engine.rewind(len(TEXT))
    return logits


def draft_logits(target: Target, experts: int, times: int = 1) -> Tensor:
    """The draft's logits after the same; the keys and values of the text are the draft's too."""
    engine = Engine(target, 32)
    with engine.draft_mode(SkipMask.empty(target.depth), DraftConfig(experts=experts)):
        engine.prefill(TEXT)
        return [after(engine) for _ in range(times)][-1]


def own_logits(model: Any) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([[*TEXT, 7]]), use_cache=False).logits[0, -1]
    return logits


@pytest.mark.parametrize("name", TYPES)
def test_a_draft_with_one_expert_is_a_model_that_chooses_one(name: str) -> None:
    model = mixture(name)
    before, wanted = own_logits(model), own_logits(mixture(name, chosen=1))
    assert not torch.allclose(before, wanted, atol=0.01)
    for runtime in ("eager", "captured"):
        target = make_target(model, None, runtime=runtime)
        assert torch.allclose(draft_logits(target, 1, times=3), wanted, atol=CLOSE)
        assert torch.allclose(after(prefilled(target)), before, atol=CLOSE)
    assert torch.equal(own_logits(model), before)


def prefilled(target: Target) -> Engine:
    engine = Engine(target, 32)
    engine.prefill(TEXT)
    return engine


@pytest.mark.parametrize("name", SHARING)
def test_a_draft_without_routed_experts_has_the_shared_one(name: str) -> None:
    model, without = mixture(name), mixture(name)
    for module in without.modules():
        if type(module).__name__.endswith("Experts"):
            module.forward = lambda hidden, *_: torch.zeros_like(hidden)
    wanted = own_logits(without)
    assert torch.allclose(draft_logits(make_target(model, None), 0), wanted, atol=CLOSE)
    assert not torch.allclose(own_logits(model), wanted, atol=0.01)


def test_captured_steps_with_fewer_experts_are_steps_of_their_own() -> None:
    """A step of drafts is not replayed for the model, and one of two experts not for one.

    A draft that changes nothing is the model.
    """
    model = mixture("deepseek_v3")
    target = make_target(model, None, runtime="captured")
    engine = prefilled(target)
    first = after(engine)
    found = []
    for experts in (1, 0, None, 1, 0):
        with engine.draft_mode(SkipMask.empty(target.depth), DraftConfig(experts=experts)):
            found.append(after(engine))
        assert torch.equal(after(engine), first)
    assert target.runtime.step_caches.num_captured == 3
    one, none, whole = found[:3]
    assert torch.equal(whole, first)
    assert torch.equal(found[3], one)
    assert torch.equal(found[4], none)
    assert not torch.equal(one, none)
    assert not torch.equal(one, first)


def test_a_draft_that_fails_leaves_the_routers_as_they_were() -> None:
    model = mixture("mixtral")
    engine = prefilled(make_target(model, None, runtime="eager"))
    first = after(engine)
    assert engine.target.runtime.experts.unsupported_reason(1) is None

    def fails(*args: Any) -> None:
        raise RuntimeError("no")

    handle = model.model.layers[1].mlp.experts.register_forward_pre_hook(fails)
    no_mask = SkipMask.empty(engine.target.depth)
    with (
        pytest.raises(RuntimeError, match="no"),
        engine.draft_mode(no_mask, DraftConfig(experts=1)),
    ):
        engine.step([7])
    handle.remove()
    engine.rewind(len(TEXT))
    assert torch.equal(after(engine), first)
    assert [layer.mlp.gate.top_k for layer in model.model.layers] == [CHOSEN] * 4


@pytest.mark.parametrize("attribute", ["num_experts_per_tok", "top_k"])
def test_blocks_of_an_unknown_class_are_found_by_what_they_do(attribute: str) -> None:
    model, one = renamed_mixture(attribute), renamed_mixture(attribute)
    for layer in one.model.layers:
        setattr(layer.mlp, attribute, 1)
    assert torch.allclose(draft_logits(make_target(model, None), 1), own_logits(one), atol=CLOSE)


def test_the_number_may_be_in_a_configuration_that_routers_read() -> None:
    settings = {
        "enable_moe_block": True, "num_experts": 4, "moe_intermediate_size": 16,
    }  # fmt: skip
    model = tiny_model("gemma4_text", **settings, top_k_experts=CHOSEN)
    target = make_target(model, None, runtime="eager")
    wanted = own_logits(tiny_model("gemma4_text", **settings, top_k_experts=1))
    assert torch.allclose(draft_logits(target, 1), wanted, atol=CLOSE)
    assert model.config.top_k_experts == CHOSEN


@pytest.mark.parametrize(
    ("model", "experts", "reason"),
    [
        (lambda: tiny_llama(), 1, "LlamaForCausalLM is not a mixture of experts"),
        (lambda: tiny_llama(), 0, "LlamaForCausalLM is not a mixture of experts"),
        (lambda: mixture("mixtral"), CHOSEN, "runs 2 experts for each token"),
        (lambda: mixture("mixtral", 1), 1, "runs 1 expert for each token"),
        (lambda: mixture("mixtral"), 0, "has no expert that all tokens share"),
        (lambda: renamed_mixture(), 0, "no module of LlamaForCausalLM runs the experts"),
        (lambda: renamed_mixture("paths"), 1, "LlamaForCausalLM is not a mixture of experts"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_name(model: Any, experts: int, reason: str) -> None:
    target = tiny_target(model())
    with pytest.raises(UsageError, match=reason) as refused:
        LayerSkipDrafter(target, draft_config=DraftConfig(experts=experts))
    assert f"experts={experts}" in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(ModelError, match=reason):
        target.runtime.experts.fewer(experts)


def test_an_attribute_that_nobody_reads_is_no_router() -> None:
    """The names alone prove nothing."""
    model = renamed_mixture("paths")
    for layer in model.model.layers:
        layer.mlp.top_k = CHOSEN
    target = make_target(model, None, runtime="eager")
    reason = target.runtime.experts.unsupported_reason(1)
    assert reason == "no attribute of LlamaForCausalLM says how many experts run for a token"


def test_skipped_mixtures_stay_skipped() -> None:
    """A mask and fewer experts together."""
    model = renamed_mixture()
    target = make_target(model, None, runtime="eager")
    with_one = renamed_mixture()
    for index, layer in enumerate(with_one.model.layers):
        layer.mlp.num_experts_per_tok = 1
        if index == 1:
            layer.mlp.forward = torch.zeros_like
    engine = Engine(target, 32)
    mask = SkipMask.of(target.depth, mlp=[1])
    with engine.draft_mode(mask, DraftConfig(experts=1)):
        engine.prefill(TEXT)
        assert torch.allclose(after(engine), own_logits(with_one), atol=CLOSE)
    assert all(isinstance(layer.mlp, Crossroads) for layer in model.model.layers)
