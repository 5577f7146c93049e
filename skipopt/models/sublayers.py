"""Find the attention and MLP sublayers of any decoder by structure; prove each can be skipped.

No list of classes: the decoder layers are the `ModuleList` as long as the config says whose
elements own an attention; each layer is then run once with its branches zeroed, and must return
its input unchanged. Architectures where that fails (residual added inside a submodule, extra
branches) are refused with the layer's name. Knows nothing of masks or of their origin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.errors import ModelError
from skipopt.masks import Kind
from skipopt.models.patch import Forward, Patch

ATTENTION_NAMES = ("self_attn", "self_attention", "attention", "attn")
RECURRENT_NAMES = (
    "mamba",
    "mixer",
    "linear_attn",
    "conv",
    "short_conv",
    "temporal_block",
    "time_mixer",
    "ssm",
)
MLP_NAMES = (
    ("mlp",),
    ("feed_forward",),
    ("block_sparse_moe", "shared_mlp"),
    ("block_sparse_moe",),
    ("ffn",),
    ("moe",),
    ("mlp_block",),
    ("fc2",),
)
PROBE_TOKENS = 6


@dataclass(frozen=True, slots=True)
class Sublayer:
    """One module and how it returns: bare tensor (`arity` 0) or a tuple, tensor first.

    `width` is the size of the returned tensor's last dimension.
    """

    module: nn.Module
    arity: int
    width: int

    def wrap(self, out: Tensor) -> Any:
        return out if self.arity == 0 else (out, *[None] * (self.arity - 1))

    def zeros(self, *args: Any, **kwargs: Any) -> Any:
        """Stands in for the module's forward: fresh zeros (callers may add in place)."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[-1] == self.width:
            return self.wrap(torch.zeros_like(hidden))
        return self.wrap(hidden.new_zeros(*hidden.shape[:-1], self.width))

    def identity(self, *args: Any, **kwargs: Any) -> Any:
        """Stands in for a block layer's forward: the residual stream passes untouched."""
        return self.wrap(args[0] if args else kwargs["hidden_states"])


def identity_norm(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stands in for a norm whose only reader is skipped."""
    return hidden


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer: its two branches, and what only they need.

    `branch_norms[kind]` are modules of the layer (norms, mostly) whose output only reaches the
    stream through that branch, so that skipping the branch spares them too.
    """

    index: int
    block: Sublayer
    attention: tuple[Sublayer, ...]
    mlp: tuple[Sublayer, ...]
    branch_norms: dict[Kind, tuple[nn.Module, ...]]

    def branches(self, kind: Kind) -> tuple[Sublayer, ...]:
        return self.attention if kind == "attention" else self.mlp


def find_sublayers(model: nn.Module) -> tuple[DecoderLayer, ...]:
    """The decoder layers of `model`, each self-tested.

    Raises:
        ModelError: no decoder layers found, a layer in which zeroed branches are not a skip, or
            one that remembers more than keys and values.
    """
    name, layers = _layer_list(model)
    calls, outputs = _observe(model, layers)
    found: list[DecoderLayer] = []
    known_feeders: dict[type[nn.Module], dict[Kind, tuple[str, ...]]] = {}
    for index, layer in enumerate(layers):
        where = f"{name}.{index} ({type(layer).__name__})"
        found.append(_probe_layer(index, layer, where, calls, outputs, known_feeders))
    _check_memory(model, name, len(found))
    return tuple(found)


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _layer_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    config: Any = model.config
    depth = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if getattr(config, "is_encoder_decoder", False) or not depth:
        raise ModelError(
            f"{type(model).__name__} is not a decoder-only language model",
            hint="skipopt works on causal language models such as Llama, Qwen or GPT-2",
        )
    if getattr(config.get_text_config(decoder=True), "num_kv_shared_layers", 0):
        raise ModelError(
            f"{type(model).__name__} shares keys and values between layers, "
            "so skipping one layer's attention breaks another's",
            hint="choose a model without KV sharing",
        )
    mixers = (*ATTENTION_NAMES, *RECURRENT_NAMES)
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module) == depth
            and all(_child(layer, mixers) for layer in module)
        ):
            return name, module
    raise ModelError(
        f"no list of {depth} decoder layers found in {type(model).__name__}",
        hint="the architecture is not supported; please report it with `skipopt env`",
    )


def _child(layer: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    for name in names:
        module = getattr(layer, name, None)
        if isinstance(module, nn.Module):
            return module
    return None


def _modules_of(layer: nn.Module, where: str) -> dict[Kind, tuple[nn.Module, ...]]:
    attention = _child(layer, ATTENTION_NAMES)
    recurrent = _child(layer, RECURRENT_NAMES)
    if attention is None or recurrent is not None:
        raise ModelError(
            f"{where} keeps a recurrent state, which cannot be rewound after a rejected draft",
            hint="choose a model whose layers all use attention",
        )
    for names in MLP_NAMES:
        modules = [m for n in names if isinstance(m := getattr(layer, n, None), nn.Module)]
        if len(modules) == len(names):
            return {"attention": (attention,), "mlp": tuple(modules)}
    raise ModelError(
        f"no MLP found in {where}", hint="the architecture is not supported; please report it"
    )


@torch.no_grad()
def _observe(
    model: nn.Module, layers: nn.ModuleList
) -> tuple[dict[int, Call], dict[nn.Module, Any]]:
    """One forward over a few tokens: each layer's inputs, and what every module returned."""
    calls: dict[int, Call] = {}
    outputs: dict[nn.Module, Any] = {}

    def keep_call(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            calls[index] = (args, kwargs)

        return hook

    def keep_output(module: nn.Module, args: Any, output: Any) -> None:
        outputs[module] = output

    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            handle = layer.register_forward_pre_hook(keep_call(index), with_kwargs=True)
            stack.callback(handle.remove)
            for module in (layer, *layer.children()):
                stack.callback(module.register_forward_hook(keep_output).remove)
        _run_probe(model, use_cache=False)
    return calls, outputs


def _run_probe(model: Any, use_cache: bool) -> Any:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, PROBE_TOKENS + 1) * (vocabulary // (PROBE_TOKENS + 2))
    try:
        return model(input_ids=ids[None].to(input_device(model)), use_cache=use_cache)
    except Exception as error:  # whatever a model's own code raises
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{type(model).__name__} does not run over {PROBE_TOKENS} tokens: {reason}",
            hint="try it with transformers alone",
        ) from error


@torch.no_grad()
def _check_memory(model: nn.Module, name: str, depth: int) -> None:
    """What a layer remembers of a text must be keys and values: only those can be rewound.

    The cache that the model makes for itself shows it. States may hide behind the name of an
    attention, and sparse attentions keep an index besides.
    """
    output = _run_probe(model, use_cache=True)
    memories = getattr(getattr(output, "past_key_values", None), "layers", ())
    for index in range(depth):
        kept = _kept_states(memories[index]) if index < len(memories) else set()
        if kept != {"keys", "values"}:
            what = ", ".join(sorted(kept)) or "nothing"
            raise ModelError(
                f"{name}.{index} remembers {what} of a text; only keys and values can be "
                "rewound after a rejected draft",
                hint="choose a model whose layers all use plain attention",
            )


def _kept_states(memory: Any) -> set[str]:
    """Names of the tensors in one layer's cache; numbers, such as the window's size, apart."""
    kept: set[str] = set()
    for name, value in vars(memory).items():
        parts = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(part, Tensor) and part.ndim > 1 for part in parts):
            kept.add(name)
    return kept


def input_device(model: nn.Module) -> torch.device:
    """Where input ids must be: with the embedding, or where an offloaded one is computed.

    Hooks of accelerate move them on.
    """
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    device: torch.device = embedding.weight.device
    if device.type != "meta":
        return device
    chosen = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    return torch.device("cpu" if chosen is None else chosen)


def _branch(module: nn.Module, output: Any, where: str) -> Sublayer:
    first = output[0] if isinstance(output, tuple) else output
    if not isinstance(first, Tensor):
        raise ModelError(
            f"a sublayer of {where} returns something other than a tensor: it cannot be skipped",
            hint="the architecture is not supported; please report it",
        )
    arity = len(output) if isinstance(output, tuple) else 0
    return Sublayer(module, arity, first.shape[-1])


def _probe_layer(
    index: int,
    layer: nn.Module,
    where: str,
    calls: dict[int, Call],
    outputs: dict[nn.Module, Any],
    known_feeders: dict[type[nn.Module], dict[Kind, tuple[str, ...]]],
) -> DecoderLayer:
    modules = _modules_of(layer, where)
    for kind, members in modules.items():
        if index not in calls or any(m not in outputs for m in members):
            raise ModelError(
                f"the {kind} of {where} is never called: it cannot be skipped",
                hint="the architecture is not supported; please report it",
            )
    branches: dict[Kind, tuple[Sublayer, ...]] = {
        kind: tuple(_branch(m, outputs[m], where) for m in members)
        for kind, members in modules.items()
    }
    block = _branch(layer, outputs[layer], where)
    run = _LayerRun(layer, calls[index])
    zeroed = [(b.module, b.zeros) for kind in branches for b in branches[kind]]
    if not torch.equal(run(zeroed), run.hidden):
        raise ModelError(
            f"skipping both sublayers of {where} does not leave the stream unchanged",
            hint="this architecture adds its residual elsewhere; it cannot be skipped safely",
        )
    if type(layer) not in known_feeders:
        known_feeders[type(layer)] = _feeder_names(layer, run, branches)
    names = known_feeders[type(layer)]
    branch_norms = {k: _confirm_feeders(layer, run, branches[k], names[k]) for k in branches}
    return DecoderLayer(index, block, branches["attention"], branches["mlp"], branch_norms)


class _LayerRun:
    """Runs one layer again on the inputs it saw, under replacements."""

    def __init__(self, layer: nn.Module, call: Call) -> None:
        self.layer = layer
        self.args, self.kwargs = call
        self.hidden: Tensor = self.args[0] if self.args else self.kwargs["hidden_states"]

    @torch.no_grad()
    def __call__(self, changes: list[tuple[nn.Module, Forward]]) -> Tensor:
        with Patch(changes):
            output = self.layer(*self.args, **self.kwargs)
        tensor: Tensor = output[0] if isinstance(output, tuple) else output
        return tensor.to(self.hidden.device)


def _feeder_names(
    layer: nn.Module, run: _LayerRun, branches: dict[Kind, tuple[Sublayer, ...]]
) -> dict[Kind, tuple[str, ...]]:
    """Children of the layer that make no difference once a branch is zeroed; once a class."""
    busy = {b.module for kind in branches for b in branches[kind]}
    names: dict[Kind, tuple[str, ...]] = {}
    for kind in branches:
        zeroed: list[tuple[nn.Module, Forward]] = [(b.module, b.zeros) for b in branches[kind]]
        expected = run(zeroed)
        names[kind] = tuple(
            name
            for name, module in layer.named_children()
            if module not in busy and _same(run, [*zeroed, (module, identity_norm)], expected)
        )
    return names


def _confirm_feeders(
    layer: nn.Module, run: _LayerRun, branches: tuple[Sublayer, ...], names: tuple[str, ...]
) -> tuple[nn.Module, ...]:
    modules = tuple(m for name in names if (m := getattr(layer, name, None)) is not None)
    zeroed: list[tuple[nn.Module, Forward]] = [(b.module, b.zeros) for b in branches]
    quiet: list[tuple[nn.Module, Forward]] = [(m, identity_norm) for m in modules]
    return modules if modules and _same(run, [*zeroed, *quiet], run(zeroed)) else ()


def _same(run: _LayerRun, changes: list[tuple[nn.Module, Forward]], expected: Tensor) -> bool:
    try:
        return torch.equal(run(changes), expected)
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return False  # the layer cannot do without this module


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; the training flag is put back after."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
