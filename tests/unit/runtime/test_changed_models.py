"""After a model was changed, its text is that of the changed model: no copy goes stale."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from support.kernel_timings import prefer_packed, prefer_quantized
from support.tiny import tiny_llama, tiny_target
from torch import Tensor, nn

from skipopt.draft_config import DraftConfig
from skipopt.errors import ModelError
from skipopt.kernels.native import native_kernels
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target

PROMPT = [5, 9, 60, 3, 7]
RUNTIMES = ["eager", "prepacked", "captured", "native"]


class Flagged(nn.Module):
    """An MLP that doubles its output while a flag in a list is set, as adapters are switched."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.active = inner, ["off"]

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.inner(input)
        return 2 * output if self.active == ["on"] else output


def gate(model: Any) -> nn.Linear:
    found: nn.Linear = model.model.layers[1].mlp.inner.gate_proj
    return found


def train_a_step(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.tensor([PROMPT])).logits.square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def load_state(model: Any) -> None:
    model.load_state_dict({k: 1.5 * v for k, v in model.state_dict().items()})


def write_data(model: Any) -> None:
    gate(model).weight.data.mul_(-1)


def write_norms(model: Any) -> None:
    model.model.norm.weight.data[3] = 7.0


def write_one_weight(model: Any) -> None:
    """Its value is not compared, but torch counts the version."""
    with torch.no_grad():
        gate(model).weight[0, 1] += 40.0


def set_data(model: Any) -> None:
    gate(model).weight.data = -gate(model).weight.data


def set_parameter(model: Any) -> None:
    gate(model).weight = nn.Parameter(-gate(model).weight.detach())


def set_module(model: Any) -> None:
    torch.manual_seed(3)
    model.model.layers[1].mlp.inner.gate_proj = nn.Linear(64, 96, bias=False)


def switch_flag(model: Any) -> None:
    model.model.layers[1].mlp.active[0] = "on"


def resize(model: Any) -> None:
    torch.manual_seed(4)
    model.resize_token_embeddings(72, mean_resizing=False)


def add_hook(model: Any) -> None:
    model.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: 2 * output)


CHANGES = [
    add_hook,
    train_a_step,
    load_state,
    write_data,
    write_norms,
    write_one_weight,
    set_data,
    set_parameter,
    set_module,
    switch_flag,
    resize,
]


@pytest.fixture(autouse=True)
def copies_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer is packed and quantized for which there is a kernel."""
    prefer_quantized(monkeypatch)
    prefer_packed(monkeypatch)


def flagged_model() -> Any:
    model = tiny_llama(width=64)
    model.model.layers[1].mlp = Flagged(model.model.layers[1].mlp)
    return model


def logits(target: Target, config: DraftConfig | None = None) -> Tensor:
    """After the prompt and several more steps; as a draft if there is a config."""
    engine = Engine(target, 32)
    with target.runtime.capture_immediately():
        if config is not None:
            with engine.draft_mode(SkipMask.empty(target.depth), config):
                return torch.cat([engine.step([token]) for token in PROMPT])
        engine.prefill(PROMPT)
        several = engine.step([1, 2, 4])
        return torch.cat([several, engine.step([8])])


def close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.__name__)
def test_the_text_and_the_draft_follow_a_changed_model(
    runtime: str, change: Callable[[Any], None]
) -> None:
    if runtime == "native" and native_kernels() is None:
        pytest.skip("the native kernels are not built")
    int8 = DraftConfig(weight_bits=8)
    target = tiny_target(flagged_model(), runtime=runtime)
    before = [logits(target), logits(target, int8)]
    change(target.model)
    found = [logits(target), logits(target, int8)]
    fresh = tiny_target(copy.deepcopy(target.model), runtime=runtime)
    eager = logits(tiny_target(copy.deepcopy(target.model)))
    assert close(found[0], eager)
    assert close(found[1], logits(fresh, int8))
    assert not close(before[0], eager)
    assert target.runtime.name == runtime


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_is_made_anew_while_the_model_stays_the_same(runtime: str) -> None:
    if runtime == "native" and native_kernels() is None:
        pytest.skip("the native kernels are not built")
    target = tiny_target(flagged_model(), runtime=runtime)
    for config in (None, DraftConfig(8), None):
        logits(target, config)
    captured = target.runtime.step_caches.num_captured
    logits(target)
    assert target.runtime.step_caches.generation == 0
    assert target.runtime.step_caches.num_captured == captured


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_was_in_float16_for_a_while_runs_as_before(runtime: str) -> None:
    if runtime == "native" and native_kernels() is None:
        pytest.skip("the native kernels are not built")
    notices: list[str] = []
    target = make_target(flagged_model(), None, runtime=runtime, on_notice=notices.append)
    int8 = DraftConfig(weight_bits=8)
    target.model.half()
    half = [logits(target), logits(target, int8)]
    told = len(notices)
    target.model.float()
    target.model.half()
    assert logits(target).dtype == torch.float16
    assert len(notices) == told <= 1  # the same is told once
    target.model.float()
    found = [logits(target), logits(target, int8)]
    fresh = tiny_target(copy.deepcopy(target.model), runtime=runtime)
    assert close(found[0], logits(tiny_target(copy.deepcopy(target.model))))
    assert close(found[1], logits(fresh, int8))
    for low, full in zip(half, found, strict=True):
        assert (low.float() - full).abs().max() <= 0.05 * full.abs().max()
    assert target.runtime.name == runtime


SCALE = {"global": 1.0}
Hook = Callable[[nn.Module, Any, Tensor], Tensor]
SetScale = Callable[[float], None]


class Scaling:
    """Hooks that scale the output: a method, and the object itself."""

    def __init__(self) -> None:
        self.scale = 1.0

    def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self.scale * output

    __call__ = hook

    def set(self, scale: float) -> None:
        self.scale = scale


def global_hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return SCALE["global"] * output


def read_global() -> tuple[Hook, SetScale]:
    return global_hook, lambda scale: SCALE.update({"global": scale})


def read_closure() -> tuple[Hook, SetScale]:
    scale = 1.0

    def set_scale(value: float) -> None:
        nonlocal scale
        scale = value

    return lambda module, inputs, output: scale * output, set_scale


def read_through_functions() -> tuple[Hook, SetScale]:
    hook, set_scale = read_closure()

    def around(function: Hook, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return function(module, inputs, output)

    return partial(lambda *given: around(hook, *given)), set_scale


def read_attribute() -> tuple[Hook, SetScale]:
    made = Scaling()
    return made.hook, made.set


def read_own_attribute() -> tuple[Hook, SetScale]:
    made = Scaling()
    return made, made.set


@pytest.mark.parametrize("runtime", ["captured", "native"])
@pytest.mark.parametrize(
    "kind",
    [read_global, read_closure, read_through_functions, read_attribute, read_own_attribute],
    ids=lambda each: each.__name__,
)
def test_a_number_that_a_hook_reads_elsewhere_may_change(
    runtime: str, kind: Callable[[], tuple[Hook, SetScale]]
) -> None:
    if runtime == "native" and native_kernels() is None:
        pytest.skip("the native kernels are not built")
    hook, set_scale = kind()
    set_scale(1.0)
    target = tiny_target(tiny_llama(width=64), runtime=runtime)
    target.model.model.layers[1].mlp.register_forward_hook(hook)
    before = logits(target)
    set_scale(-2.0)
    found = logits(target)
    assert not close(before, found)
    assert close(found, logits(tiny_target(target.model)))
    assert target.runtime.step_caches.generation == 2  # for the hook, and for its number
    assert target.runtime.name == runtime


@pytest.mark.parametrize("runtime", ["captured", "native"])
def test_hooks_of_all_modules_are_noticed(runtime: str) -> None:
    if runtime == "native" and native_kernels() is None:
        pytest.skip("the native kernels are not built")
    target = tiny_target(tiny_llama(width=64), runtime=runtime)
    mlp = target.model.model.layers[1].mlp
    before = logits(target)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: -2 * output if module is mlp else None
    )
    try:
        found, expected = logits(target), logits(tiny_target(target.model))
    finally:
        handle.remove()
    assert close(found, expected)
    assert not close(found, before)
    assert close(logits(target), before)


class WithTensors(nn.Module):
    """An MLP that adds tensors which are neither parameters nor buffers, and keeps its output."""

    def __init__(self, inner: nn.Module, keeps: bool) -> None:
        super().__init__()
        self.inner, self.keeps = inner, keeps
        self.single, self.several = torch.zeros(64), [torch.zeros(64)]
        self.kept: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.inner(input) + self.single + self.several[0]
        if self.keeps:
            self.kept = output
        return output


def replace_single(module: WithTensors) -> None:
    module.single = torch.randn(64, generator=torch.Generator().manual_seed(1))


def write_single(module: WithTensors) -> None:
    module.single[:32] += 3.0


def replace_one_of_several(module: WithTensors) -> None:
    module.several[0] = torch.randn(64, generator=torch.Generator().manual_seed(2))


def with_tensors(runtime: str, keeps: bool = False) -> tuple[Target, WithTensors]:
    model = tiny_llama(width=64)
    module = WithTensors(model.model.layers[1].mlp, keeps)
    model.model.layers[1].mlp = module
    return tiny_target(model, runtime=runtime), module


@pytest.mark.parametrize("runtime", ["captured", "native"])
@pytest.mark.parametrize(
    "change",
    [replace_single, write_single, replace_one_of_several],
    ids=lambda each: each.__name__,
)
def test_tensors_that_are_no_parameters_may_change(
    runtime: str, change: Callable[[WithTensors], None]
) -> None:
    if runtime == "native" and native_kernels() is None:
        pytest.skip("the native kernels are not built")
    target, module = with_tensors(runtime)
    before = logits(target)
    change(module)
    found = logits(target)
    assert close(found, logits(tiny_target(target.model)))
    assert not close(found, before)
    assert target.runtime.step_caches.generation == 1


@pytest.mark.parametrize("runtime", ["captured", "native"])
def test_tensors_that_a_forward_keeps_are_no_change(runtime: str) -> None:
    if runtime == "native" and native_kernels() is None:
        pytest.skip("the native kernels are not built")
    target, module = with_tensors(runtime, keeps=True)
    before = logits(target)
    made = target.runtime.step_caches.generation
    for _ in range(3):
        assert torch.equal(logits(target), before)
    assert module.kept is not None
    assert target.runtime.step_caches.generation <= made + 1  # for the attribute's first tensor


def replace_layer(model: Any) -> None:
    model.model.layers[1] = copy.deepcopy(model.model.layers[1])


def replace_sublayer(model: Any) -> None:
    model.model.layers[2].self_attn = copy.deepcopy(model.model.layers[2].self_attn)


def move_layers(model: Any) -> None:
    model.model.layers = nn.ModuleList(reversed(model.model.layers))


def drop_a_layer(model: Any) -> None:
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (replace_layer, "decoder layer 1 was"),
        (replace_sublayer, "decoder layer 2 was"),
        (move_layers, "the decoder layers were"),
        (drop_a_layer, "decoder layer 2 was"),
    ],
)
def test_layers_that_were_replaced_are_refused(change: Callable[[Any], None], what: str) -> None:
    target = tiny_target(flagged_model())
    change(target.model)
    for _ in range(2):
        with pytest.raises(ModelError, match=f"{what} replaced after the model was loaded"):
            Engine(target, 32)
    assert Engine(tiny_target(target.model), 32).step(PROMPT).isfinite().all()
