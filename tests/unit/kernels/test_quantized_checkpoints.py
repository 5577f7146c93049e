"""Quantized checkpoints as targets: identified by their stored values, skipped in, not packed.

Always tested: a layer with integers in buffers, like those of GPTQ and AWQ, and a tensor subclass,
like torchao's. torchao, bitsandbytes and gptqmodel are tested where they are installed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command_line import Cli, command_line, expect_error
from support.int4_checkpoints import SETTINGS, save_int4, write_quantization_config
from support.lossless import assert_lossless, text
from support.tiny import save_tokenizer, tiny_prompts
from torch import Tensor, nn

import skipopt
from skipopt.models import loading as model_loading
from skipopt.models.identity import fingerprint
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime import load as load_module
from skipopt.runtime.load import make_target

NEAR_TIE = 0.1  # between the two best logits, of about 5


class BufferedLinear(nn.Module):
    """Integers and a scale for each row, neither of them a parameter."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        scale = weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("qweight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("workspace", torch.zeros(4), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ (self.qweight * self.scale).T


def buffered(model: Any) -> Any:
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(part, name, BufferedLinear(child))
    return model


class Wrapped(Tensor):
    """A tensor subclass of integers and scales that, like torchao's, cannot be viewed."""

    values: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, values: Tensor, scale: Tensor) -> Any:
        make: Any = Tensor._make_wrapper_subclass  # type: ignore[attr-defined]
        return make(cls, values.shape, dtype=torch.float32)

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        self.values, self.scale = values, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["values", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].values, args[0].scale)
        if func is torch.ops.aten.view.default:
            raise NotImplementedError(func)
        plain = [a.values * a.scale if isinstance(a, Wrapped) else a for a in args]
        return func(*plain, **(kwargs or {}))


def wrapped(model: Any) -> Any:
    for layer in model.model.layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                integers = BufferedLinear(module)
                weight: Any = Wrapped(integers.qweight, integers.scale)  # type: ignore[arg-type]
                module.weight = nn.Parameter(weight, requires_grad=False)
    return model


def torchao(model: Any) -> Any:
    """int8 weights as tensors of a class of their own, in plain `nn.Linear`."""
    quantization = pytest.importorskip("torchao.quantization", exc_type=ImportError)
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def bitsandbytes(model: Any) -> Any:
    """4-bit weights that unpack themselves in the layer's forward."""
    library = pytest.importorskip("bitsandbytes", exc_type=ImportError)
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(part, name, four_bits(library.nn, child))
    return model


def four_bits(layers: Any, layer: nn.Linear) -> nn.Module:
    made = layers.Linear4bit(
        layer.in_features, layer.out_features, bias=False, compute_dtype=torch.float32,
        quant_type="nf4",
    )  # fmt: skip
    made.weight = layers.Params4bit(layer.weight.detach(), requires_grad=False, quant_type="nf4")
    return made.to("cpu")


WAYS = [buffered, wrapped, torchao, bitsandbytes]


def llama(seed: int = 0) -> Any:
    """Wide enough for blocks of 64 weights that share a scale."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(params=WAYS)
def quantize(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    chosen: Callable[[Any], Any] = request.param
    return chosen


def test_drafts_change_no_token(quantize: Callable[[Any], Any]) -> None:
    target = make_target(quantize(llama()), None)
    assert_lossless(target, target)


def test_quantized_layers_are_not_packed(
    quantize: Callable[[Any], Any],
    packed_wins: None,
) -> None:
    target = make_target(quantize(llama()), None, runtime="prepacked")
    inside = {m for layer in target.layers for m in layer.block.module.modules()}
    with target.runtime.kernels.patch:
        packed = [m for m in inside if "forward" in m.__dict__]
    assert packed == []
    assert_lossless(target, target)


def test_the_stored_values_are_the_identity(quantize: Callable[[Any], Any]) -> None:
    found = make_target(quantize(llama()), None).fingerprint
    assert found == make_target(quantize(llama()), None).fingerprint
    assert found != fingerprint(llama())


def test_one_other_matrix_makes_a_difference(quantize: Callable[[Any], Any]) -> None:
    model, other = llama(), llama()
    with torch.no_grad():
        other.model.layers[2].mlp.down_proj.weight.neg_()
    assert fingerprint(quantize(other)) != fingerprint(quantize(model))


def test_buffers_that_are_not_saved_are_no_part_of_the_identity() -> None:
    model = buffered(llama())
    before = fingerprint(model)
    model.model.layers[0].mlp.up_proj.workspace.fill_(1)
    assert fingerprint(model) == before
    model.model.layers[0].mlp.up_proj.scale.mul_(2)
    assert fingerprint(model) != before


# Checkpoints on disk


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Cli:
    return command_line(monkeypatch, tmp_path, capsys)


@pytest.fixture(params=SETTINGS)
def int4(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder named after its scheme."""
    folder = tmp_path / request.param
    save_int4(llama(), request.param, folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def readable(int4: Path) -> Path:
    pytest.importorskip("optimum", exc_type=ImportError)
    pytest.importorskip("gptqmodel", exc_type=ImportError)
    return int4


@pytest.fixture
def unreadable(int4: Path) -> Path:
    if find_spec("gptqmodel") is not None:
        pytest.skip("gptqmodel is installed")
    return int4


def assert_equal_up_to_ties(target: Target) -> None:
    """gptqmodel's kernels round activations to bfloat16, so tokens with equal logits may swap."""
    profile = Profile.by_hand(target, attention=[1], mlp=[2], gamma=3)
    for prompt in tiny_prompts(3):
        plain, drafted = text(target, prompt), text(target, prompt, profile)
        same = next((i for i in range(20) if plain[i] != drafted[i]), None)
        if same is not None:
            with torch.inference_mode():
                logits = target.model(torch.tensor([prompt + plain[:same]])).logits[0, -1]
            first, second = logits.topk(2).values
            assert first - second < NEAR_TIE


@pytest.mark.parametrize("runtime", ["eager", "captured"])
def test_gptq_and_awq_are_targets(readable: Path, runtime: str) -> None:
    target = skipopt.load(readable, device="cpu", runtime=runtime)
    assert target.runtime.name == runtime
    assert_equal_up_to_ties(target)
    assert (target.runtime.step_caches.num_captured > 0) == (runtime == "captured")
    assert skipopt.load(readable, device="cpu", runtime="eager").fingerprint == target.fingerprint


def test_output_of_gptqmodel_does_not_reach_stdout(readable: Path, cli: Cli) -> None:
    ended = cli("run", readable, "--prompt", "w3", "--max-new-tokens", 2, "--json")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("{")


def test_libraries_that_print_while_loading_do_not_reach_stdout(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = load_module.load

    def prints_while_loading(*args: Any, **kwargs: Any) -> Target:
        print("kernel selected")
        return load(*args, **kwargs)

    monkeypatch.setattr(load_module, "load", prints_while_loading)
    ended = cli("run", "builtin", "--prompt", "def", "--max-new-tokens", 2, "--json")
    assert ended.out.startswith("{")
    assert "kernel selected" in ended.err


def test_a_missing_library_is_named(unreadable: Path, cli: Cli) -> None:
    ended = cli("run", unreadable, "--prompt", "w3")
    expect_error(ended, 1, "it is quantized", "hint: pip install", "gptqmodel")


def test_only_what_is_missing_is_named(
    unreadable: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        model_loading, "find_spec", lambda name: None if name == "gptqmodel" else name
    )
    expect_error(cli("run", unreadable, "--prompt", "w3"), 1, "hint: pip install gptqmodel\n")


def test_other_missing_libraries_are_named_by_transformers(int4: Path, cli: Cli) -> None:
    if find_spec("compressed_tensors") is not None:
        pytest.skip("compressed-tensors is installed")
    write_quantization_config(int4, {"quant_method": "compressed-tensors"})
    ended = cli("run", int4, "--prompt", "w3")
    expect_error(ended, 1, "compressed-tensors", "hint: install the package")


def test_an_unknown_quantization_scheme_is_refused(int4: Path, cli: Cli) -> None:
    """transformers ignores an unknown scheme and initializes the weights at random."""
    write_quantization_config(int4, {"quant_method": "of next year"})
    ended = cli("run", int4, "--prompt", "w3")
    expect_error(ended, 1, "lacks 21 of the model's weights", "model.layers.0.mlp", "quantized")
