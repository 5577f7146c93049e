"""Find the attention and MLP sublayers of any decoder by structure, and prove each skippable.

There is no list of classes. The decoder layers are the `ModuleList` whose length the config states
and whose elements own an attention. Each layer is run once with its branches returning zeros, and
must return its input unchanged. Architectures where it does not (the residual is added inside a
submodule, there are further branches) are refused, with the layer's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.errors import ModelError
from skipopt.masks import SublayerKind
from skipopt.models.linear_stubs import linear_stubs
from skipopt.models.patch import Forward, Patch
from skipopt.models.probe import run_probe
from skipopt.models.text_states import (
    PLAIN,
    CachedParts,
    StateModule,
    cached_parts,
    state_modules,
)

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


@dataclass(frozen=True, slots=True)
class Sublayer:
    """A module and how it returns.

    Attributes:
        arity: 0 if it returns a tensor, else the length of the tuple, whose first item is one.
        width: size of that tensor's last dimension.
    """

    module: nn.Module
    arity: int
    width: int

    def wrap(self, out: Tensor) -> Any:
        """`out`, returned as the module returns."""
        return out if self.arity == 0 else (out, *[None] * (self.arity - 1))

    def zeros(self, *args: Any, **kwargs: Any) -> Any:
        """A forward that returns zeros; new ones each time, since callers may add in place."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[-1] == self.width:
            return self.wrap(torch.zeros_like(hidden))
        return self.wrap(hidden.new_zeros(*hidden.shape[:-1], self.width))

    def muted(self, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        """A forward that runs the module, and returns zeros in place of its tensor.

        Args:
            forward: of the module.
        """
        output = forward(*args, **kwargs)
        if self.arity == 0:
            return torch.zeros_like(output)
        return (torch.zeros_like(output[0]), *output[1:])

    def identity(self, *args: Any, **kwargs: Any) -> Any:
        """A forward that returns its input: that of a layer without both sublayers."""
        return self.wrap(args[0] if args else kwargs["hidden_states"])


def identity_norm(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A forward that returns its input: that of a norm which only a skipped sublayer reads."""
    return hidden


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer.

    Attributes:
        block: the layer itself.
        attention, mlp: the modules of each sublayer, which add to the residual stream. A
            recurrent mixer counts as an attention, and stands beside one in some models.
        branch_norms: by sublayer, the modules (mostly norms) whose output reaches the residual
            stream through that sublayer only, so that they can be skipped with it.
        cached: what the layer keeps of a text.
        state_modules: the modules that keep states of it.
        feeds_others: whether later layers read what its attention computes: keys and values, or
            an index.
    """

    index: int
    block: Sublayer
    attention: tuple[Sublayer, ...]
    mlp: tuple[Sublayer, ...]
    branch_norms: Mapping[SublayerKind, tuple[nn.Module, ...]]
    cached: CachedParts = PLAIN
    state_modules: tuple[StateModule, ...] = ()
    feeds_others: bool = False

    def branches(self, kind: SublayerKind) -> tuple[Sublayer, ...]:
        """The modules of one sublayer, of which there may be several, or none."""
        return self.attention if kind == "attention" else self.mlp


def find_sublayers(model: nn.Module) -> tuple[DecoderLayer, ...]:
    """The decoder layers of `model`, each proved skippable on a few tokens.

    The proof runs on stubs of the linear layers, so that it reads few weights. Where it fails on
    them, the model runs as it is, and that decides.

    Raises:
        ModelError: no decoder layers were found, a layer with zeroed branches does not return its
            input, or one keeps something of a text that cannot be restored.
    """
    name, layers = layer_list(model)
    with suppress(ModelError), linear_stubs(model):
        return prove_layers(model, name, layers)
    return prove_layers(model, name, layers)


def prove_layers(model: nn.Module, name: str, layers: nn.ModuleList) -> tuple[DecoderLayer, ...]:
    """The layers with their sublayers, proved on the model as it runs now.

    Args:
        name: the path of `layers` in the model.

    Raises:
        ModelError: see `find_sublayers`.
    """
    calls, outputs = _observe(model, layers)
    proof = _Proof(calls, outputs)
    found = [
        proof.prove(index, layer, f"{name}.{index} ({type(layer).__name__})")
        for index, layer in enumerate(layers)
    ]
    cached = cached_parts(model, name, len(found))
    keepers = state_modules(model, layers) if any(each.states for each in cached) else ()
    shares = _share_more_than_hidden(calls.values(), [outputs[layer] for layer in layers])
    return tuple(
        replace(
            _with_kind(layer, cached[layer.index]),
            cached=cached[layer.index],
            state_modules=tuple(each for each in keepers if each.layer == layer.index),
            feeds_others=shares and not _runs_without(model, layer.attention),
        )
        for layer in found
    )


def _with_kind(layer: DecoderLayer, cached: CachedParts) -> DecoderLayer:
    """The layer, whose only sublayer is an MLP if it keeps nothing of a text."""
    if layer.mlp or cached.keys or cached.states:
        return layer
    norms: dict[SublayerKind, tuple[nn.Module, ...]] = {
        "attention": (),
        "mlp": layer.branch_norms["attention"],
    }
    return replace(layer, attention=(), mlp=layer.attention, branch_norms=norms)


def _share_more_than_hidden(calls: Iterable[Call], outputs: Iterable[Any]) -> bool:
    """Whether layers may give one another more than the hidden states.

    That is another output of a layer, or a mapping that all are given.
    """
    given = [value for args, kwargs in calls for value in (*args, *kwargs.values())]
    more = {id(each) for out in outputs if isinstance(out, tuple) for each in out[1:]}
    more.discard(id(None))
    return any(isinstance(each, MutableMapping) or id(each) in more for each in given)


def _runs_without(model: nn.Module, branches: Sequence[Sublayer]) -> bool:
    """Whether the model runs when these return zeros and nothing else."""
    try:
        with Patch(_zeroed(branches)), torch.no_grad():
            run_probe(model, use_cache=False)
    except ModelError:
        return False
    return True


Call = tuple[tuple[Any, ...], dict[str, Any]]  # args and kwargs
Branches = dict[SublayerKind, tuple[Sublayer, ...]]
Changes = list[tuple[nn.Module, Forward]]


def check_layers(model: nn.Module, layers: Sequence[DecoderLayer]) -> None:
    """Check that the layers that were proved are still those of the model.

    Masks would not reach others, and an early exit would compute them on other states.

    Raises:
        ModelError: a layer, or one of its sublayers, was replaced, moved, added or left out.
    """
    present = {module: place for place, module in enumerate(model.modules())}
    config: Any = model.config
    known = getattr(config.get_text_config(decoder=True), "num_hidden_layers", len(layers))
    places = [present.get(layer.block.module, -1) for layer in layers]
    gone = [layer.index for layer in layers if not present.keys() >= set(_proved_modules(layer))]
    if gone or places != sorted(places) or known != len(layers):
        what = f"decoder layer {gone[0]} was" if gone else "the decoder layers were"
        raise ModelError(
            f"{what} replaced after the model was loaded",
            hint="load it again: skipopt.load((model, tokenizer))",
        )


def _proved_modules(layer: DecoderLayer) -> Iterator[nn.Module]:
    """The layer, and its sublayers."""
    yield layer.block.module
    yield from (each.module for each in (*layer.attention, *layer.mlp))


def layer_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The decoder layers, and their path in the model.

    Raises:
        ModelError: there are none.
    """
    config: Any = model.config
    depth = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if getattr(config, "is_encoder_decoder", False) or not depth:
        raise ModelError(
            f"{type(model).__name__} is not a decoder-only language model",
            hint="skipopt works on causal language models such as Llama, Qwen or GPT-2",
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


def _modules_of(layer: nn.Module, where: str) -> dict[SublayerKind, tuple[nn.Module, ...]]:
    mixers = tuple(
        module
        for names in (ATTENTION_NAMES, RECURRENT_NAMES)
        if (module := _child(layer, names)) is not None
    )
    mlp = next(
        (
            modules
            for names in MLP_NAMES
            if len(modules := [m for n in names if (m := _child(layer, (n,)))]) == len(names)
        ),
        [],
    )
    if not mixers and not mlp:
        raise ModelError(
            f"no sublayer found in {where}",
            hint="the architecture is not supported; please report it",
        )
    return {"attention": mixers, "mlp": tuple(mlp)}


@torch.no_grad()
def _observe(
    model: nn.Module, layers: nn.ModuleList
) -> tuple[dict[int, Call], dict[nn.Module, Any]]:
    """Run a few tokens: each layer's arguments, and what layers and their children returned."""
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
        run_probe(model, use_cache=False)
    return calls, outputs


def _sublayer(module: nn.Module, output: Any, where: str) -> Sublayer:
    first = output[0] if isinstance(output, tuple) else output
    if not isinstance(first, Tensor):
        raise ModelError(
            f"a sublayer of {where} returns something other than a tensor: it cannot be skipped",
            hint="the architecture is not supported; please report it",
        )
    arity = len(output) if isinstance(output, tuple) else 0
    return Sublayer(module, arity, first.shape[-1])


class _Proof:
    """Proves layers skippable, given one forward of the model.

    Args:
        calls: arguments of each layer, by index.
        outputs: what layers and their children returned.
    """

    def __init__(self, calls: dict[int, Call], outputs: dict[nn.Module, Any]) -> None:
        self._calls = calls
        self._outputs = outputs
        # Searched once for a class of layer: one run for each child is slow.
        self._norm_names: dict[type[nn.Module], dict[SublayerKind, tuple[str, ...]]] = {}

    def prove(self, index: int, layer: nn.Module, where: str) -> DecoderLayer:
        """The layer with its sublayers.

        Raises:
            ModelError: they cannot be skipped.
        """
        branches = self._branches(index, layer, where)
        run = _LayerRun(layer, self._calls[index])
        both = [branch for kind in branches for branch in branches[kind]]
        if not run.hidden.isfinite().all():
            raise ModelError(
                f"{where} gets values that are not finite, so no sublayer can be proved skippable",
                hint="try another --dtype, or whether the model generates text at all",
            )
        if not torch.equal(run(_zeroed(both)), run.hidden):
            raise ModelError(
                f"skipping both sublayers of {where} does not leave the stream unchanged",
                hint="this architecture adds its residual elsewhere; it cannot be skipped safely",
            )
        norms = self._branch_norms(layer, run, branches)
        block = _sublayer(layer, self._outputs[layer], where)
        return DecoderLayer(index, block, branches["attention"], branches["mlp"], norms)

    def _branches(self, index: int, layer: nn.Module, where: str) -> Branches:
        modules = _modules_of(layer, where)
        for kind, members in modules.items():
            if index not in self._calls or any(m not in self._outputs for m in members):
                raise ModelError(
                    f"the {kind} of {where} is never called: it cannot be skipped",
                    hint="the architecture is not supported; please report it",
                )
        return {
            kind: tuple(_sublayer(m, self._outputs[m], where) for m in members)
            for kind, members in modules.items()
        }

    def _branch_norms(
        self, layer: nn.Module, run: _LayerRun, branches: Branches
    ) -> dict[SublayerKind, tuple[nn.Module, ...]]:
        if type(layer) not in self._norm_names:
            self._norm_names[type(layer)] = _norm_names(layer, run, branches)
        names = self._norm_names[type(layer)]
        return {kind: _proved_norms(layer, run, branches[kind], names[kind]) for kind in branches}


def _zeroed(branches: Sequence[Sublayer]) -> Changes:
    return [(branch.module, branch.zeros) for branch in branches]


class _LayerRun:
    """Runs one layer again on the arguments it was called with, under replacements."""

    def __init__(self, layer: nn.Module, call: Call) -> None:
        self.layer = layer
        self.args, self.kwargs = call
        self.hidden: Tensor = self.args[0] if self.args else self.kwargs["hidden_states"]

    @torch.no_grad()
    def __call__(self, changes: Changes) -> Tensor:
        with Patch(changes):
            output = self.layer(*self.args, **self.kwargs)
        tensor: Tensor = output[0] if isinstance(output, tuple) else output
        return tensor.to(self.hidden.device)


def _norm_names(
    layer: nn.Module, run: _LayerRun, branches: Branches
) -> dict[SublayerKind, tuple[str, ...]]:
    """By sublayer, the children that change nothing once its branches return zeros."""
    taken = {branch.module for kind in branches for branch in branches[kind]}
    names: dict[SublayerKind, tuple[str, ...]] = {}
    for kind in branches:
        zeroed = _zeroed(branches[kind])
        expected = run(zeroed)
        names[kind] = tuple(
            name
            for name, module in layer.named_children()
            if module not in taken and _equal(run, [*zeroed, (module, identity_norm)], expected)
        )
    return names


def _proved_norms(
    layer: nn.Module, run: _LayerRun, branches: tuple[Sublayer, ...], names: tuple[str, ...]
) -> tuple[nn.Module, ...]:
    """The children of these names, if this layer too returns the same without them."""
    modules = tuple(m for name in names if (m := getattr(layer, name, None)) is not None)
    zeroed = _zeroed(branches)
    without: Changes = [*zeroed, *((module, identity_norm) for module in modules)]
    return modules if modules and _equal(run, without, run(zeroed)) else ()


def _equal(run: _LayerRun, changes: Changes, expected: Tensor) -> bool:
    try:
        return torch.equal(run(changes), expected) and bool(expected.isfinite().all())
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return False  # the layer needs what was replaced


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode; every module's own mode is restored afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
