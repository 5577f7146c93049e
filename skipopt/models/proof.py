"""Find the attention and MLP sublayers of any decoder, and prove that each can be left out.

There is no list of classes. A layer's modules that mix tokens are its attention, the others with
weights its MLP; where modules have the usual names, the names decide. Each layer is run again on
the arguments it was called with, while its sublayers return zeros, or the residual that they were
given. Their parts of the layer are then left out, and the proof is that the residual stream still
passes: unchanged in most models, scaled, normalized or mixed with other streams in some. A
sublayer without such a proof is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.errors import ModelError
from skipopt.masks import KINDS, SublayerKind
from skipopt.models.branch_norms import norm_names, proved_norms
from skipopt.models.decoder_stack import layer_list
from skipopt.models.layer_run import (
    Branches,
    Call,
    LayerRun,
    first_tensor,
    with_replaced,
    zeroed,
)
from skipopt.models.linear_stubs import linear_stubs
from skipopt.models.own_cache import continues_from_a_copy, keeps_nothing
from skipopt.models.patch import Patch
from skipopt.models.probe import run_probe
from skipopt.models.sublayers import DecoderLayer, Sublayer, stream_of
from skipopt.models.text_states import (
    REREAD,
    UNKNOWN,
    CachedParts,
    cached_parts,
    state_modules,
)

MIXER_NAMES = (
    ("self_attn", "self_attention", "attention", "attn"),
    (
        "mamba",
        "mixer",
        "linear_attn",
        "conv",
        "short_conv",
        "temporal_block",
        "time_mixer",
        "ssm",
    ),
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

Modules = dict[SublayerKind, tuple[nn.Module, ...]]


def find_sublayers(model: nn.Module) -> tuple[DecoderLayer, ...]:
    """The decoder layers of `model`, with the sublayers that can be left out.

    The proof runs on stubs of the linear layers, so that it reads few weights. Where it fails on
    them, the model runs as it is, and that decides.

    Raises:
        ModelError: no decoder layers were found, or a layer keeps something of a text that
            cannot be restored.
    """
    with suppress(ModelError), linear_stubs(model):
        found = prove_layers(model, *layer_list(model))
        if all(layer.attention or layer.mlp for layer in found):
            return found
    return prove_layers(model, *layer_list(model))


def prove_layers(model: nn.Module, name: str, layers: nn.ModuleList) -> tuple[DecoderLayer, ...]:
    """The layers with their sublayers, proved on the model as it runs now.

    Args:
        name: the path of `layers` in the model.

    Raises:
        ModelError: see `find_sublayers`.
    """
    calls, outputs = _observe(model, layers)
    proof = _Proof(layers, calls, outputs)
    found = [
        proof.prove(index, layer, f"{name}.{index} ({type(layer).__name__})")
        for index, layer in enumerate(layers)
    ]
    try:
        cached = cached_parts(model, name, len(found))
    except ModelError:
        if kept := _with_own_cache(model, found):
            return kept
        raise
    keepers = state_modules(model, layers) if any(each.states for each in cached) else ()
    ran = [layer for layer in layers if layer in calls]
    mappings = _given_mappings(calls[layer] for layer in ran)
    outputs_are_read = _outputs_are_read(
        [calls[layer] for layer in ran], [outputs[layer] for layer in ran]
    )
    shares = bool(mappings) or outputs_are_read
    only_keys = all(map(_holds_keys_and_values, mappings)) and not outputs_are_read
    return tuple(
        replace(
            _with_kind(layer, cached[layer.index]),
            cached=cached[layer.index],
            state_modules=tuple(each for each in keepers if each.layer == layer.index),
            feeds_others=(feeds := shares and not _runs_without(model, layer.attention)),
            feeds_keys=feeds and only_keys,
        )
        for layer in found
    )


def _with_own_cache(model: nn.Module, layers: Sequence[DecoderLayer]) -> tuple[DecoderLayer, ...]:
    """The layers, where the model goes on from a copy of the cache that it makes; else none.

    Each attention runs, so that the cache is as the model expects it. Where the model has no
    cache, any sublayer may be left out.
    """
    if keeps_nothing(model):
        return tuple(replace(layer, cached=REREAD) for layer in layers)
    kept = tuple(
        replace(
            layer,
            attention=(),
            branch_norms={**layer.branch_norms, "attention": ()},
            passes_unchanged=False,
            cached=UNKNOWN,
        )
        for layer in layers
    )
    if not continues_from_a_copy(model):
        return ()
    with suppress(ModelError), Patch(zeroed({"mlp": tuple(m for x in kept for m in x.mlp)})):
        if continues_from_a_copy(model):
            return kept
    return tuple(
        replace(layer, mlp=(), branch_norms={**layer.branch_norms, "mlp": ()}) for layer in kept
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


def _given_mappings(calls: Iterable[Call]) -> list[MutableMapping[Any, Any]]:
    """The mappings that layers are given, each once."""
    given = chain.from_iterable((*args, *kwargs.values()) for args, kwargs in calls)
    return list({id(each): each for each in given if isinstance(each, MutableMapping)}.values())


def _holds_keys_and_values(mapping: MutableMapping[Any, Any]) -> bool:
    """Whether it has only pairs of tensors (B, heads, n, D)."""
    return all(
        isinstance(pair, tuple)
        and len(pair) == len(("keys", "values"))
        and all(isinstance(each, Tensor) and each.ndim == 4 for each in pair)
        for pair in mapping.values()
    )


def _outputs_are_read(calls: Iterable[Call], outputs: Iterable[Any]) -> bool:
    """Whether layers are given more of other layers' outputs than the hidden states."""
    given = {id(value) for args, kwargs in calls for value in (*args, *kwargs.values())}
    more = {id(each) for out in outputs if isinstance(out, tuple) for each in out[1:]}
    more.discard(id(None))
    return not given.isdisjoint(more)


def _runs_without(model: nn.Module, branches: Sequence[Sublayer]) -> bool:
    """Whether the model runs when these return zeros and nothing else."""
    try:
        with Patch((each.module, each.zeros) for each in branches), torch.no_grad():
            run_probe(model, use_cache=False)
    except ModelError:
        return False
    return True


@torch.no_grad()
def _observe(
    model: nn.Module, layers: nn.ModuleList
) -> tuple[dict[nn.Module, Call], dict[nn.Module, Any]]:
    """Run a few tokens: what layers and their children were given, and what they returned."""
    calls: dict[nn.Module, Call] = {}
    outputs: dict[nn.Module, Any] = {}

    def keep_call(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls[module] = (args, kwargs)

    def keep_output(module: nn.Module, args: Any, output: Any) -> None:
        outputs[module] = output

    with ExitStack() as stack:
        for layer in layers:
            for module in (layer, *layer.children()):
                handle = module.register_forward_pre_hook(keep_call, with_kwargs=True)
                stack.callback(handle.remove)
                stack.callback(module.register_forward_hook(keep_output).remove)
        run_probe(model, use_cache=False)
    return calls, outputs


def _sublayer(module: nn.Module, output: Any) -> Sublayer | None:
    """How the module returns; None if that is no tensor."""
    several = isinstance(output, tuple | list)
    first = output[0] if several else output
    if not isinstance(first, Tensor):
        return None
    arity = len(output) if several else 0
    kind = list if isinstance(output, list) else tuple
    return Sublayer(module, arity, first.shape[-1], sequence=kind)


class _Proof:
    """Proves sublayers skippable, given one forward of the model.

    Args:
        calls: arguments of the layers and their children.
        outputs: what they returned.
    """

    def __init__(
        self,
        layers: nn.ModuleList,
        calls: dict[nn.Module, Call],
        outputs: dict[nn.Module, Any],
    ) -> None:
        self._calls = calls
        self._outputs = outputs
        children = Counter(child for layer in layers for child in layer.children())
        self._shared = {child for child, count in children.items() if count > 1}
        # Searched once for a class of layer: one run for each child is slow.
        self._norm_names: dict[type[nn.Module], dict[SublayerKind, tuple[str, ...]]] = {}

    def prove(self, index: int, layer: nn.Module, where: str) -> DecoderLayer:
        """The layer with the sublayers that can be left out.

        Raises:
            ModelError: the layer's values are not finite, or it returns no tensor.
        """
        if layer not in self._outputs:  # text does not reach it
            return DecoderLayer(index, Sublayer(layer, 0, 0), (), (), dict.fromkeys(KINDS, ()))
        block = _sublayer(layer, self._outputs[layer])
        if block is None:
            raise ModelError(
                f"{where} returns something other than a tensor: it cannot be skipped",
                hint="the architecture is not supported; please report it",
            )
        run = LayerRun(layer, self._calls[layer])
        if not run.hidden.isfinite().all():
            raise ModelError(
                f"{where} gets values that are not finite, so no sublayer can be proved skippable",
                hint="try another --dtype, or whether the model generates text at all",
            )
        branches, unchanged = self._left_out(run, self._branches(layer))
        norms = self._branch_norms(layer, run, branches)
        return DecoderLayer(index, block, branches["attention"], branches["mlp"], norms, unchanged)

    def _branches(self, layer: nn.Module) -> Branches:
        """The modules of each sublayer, those shared between layers left out."""
        modules = _named_modules(layer)
        weighted = [child for child in layer.children() if self._has_weights(child)]
        if not modules["attention"]:
            modules["attention"] = tuple(each for each in weighted if self._mixes_tokens(each))
        if not modules["mlp"]:
            others = (each for each in weighted if each not in modules["attention"])
            modules["mlp"] = tuple(each for each in others if not self._mixes_tokens(each))
        return {kind: self._sublayers(members) for kind, members in modules.items()}

    def _has_weights(self, module: nn.Module) -> bool:
        """Whether it was called, and has more than the weights of a norm."""
        return module in self._calls and any(each.ndim > 1 for each in module.parameters())

    def _mixes_tokens(self, module: nn.Module) -> bool:
        """Whether what it returns for the last token depends on the first."""
        args, kwargs = self._calls[module]
        with suppress(Exception):  # of a module that cannot be run alone nothing is known
            given = stream_of(args, kwargs)
            other = given.clone()
            other[:, 0] = -given[:, 0]
            before, after = (
                first_tensor(
                    module(*with_replaced(args, given, each), **with_replaced(kwargs, given, each))
                )
                for each in (given, other)
            )
            return not torch.equal(before[:, -1], after[:, -1])
        return False

    def _sublayers(self, modules: tuple[nn.Module, ...]) -> tuple[Sublayer, ...]:
        """Of all the modules; none where one of them cannot be replaced."""
        found = [
            _sublayer(module, self._outputs[module])
            for module in modules
            if module in self._outputs and module not in self._shared
        ]
        sublayers = tuple(each for each in found if each is not None)
        return sublayers if len(sublayers) == len(modules) else ()

    def _left_out(self, run: LayerRun, branches: Branches) -> tuple[Branches, bool]:
        """The sublayers that can be left out, and whether the layer passes its input without them.

        Each layer is tried with its sublayers returning zeros, then with those returning their
        residual that were given one.
        """
        ways = [branches, *self._with_residuals(branches)]
        for way in ways:
            if run.equals(run.hidden, zeroed(way)):
                return way, True
        for way in ways:
            if run.passes_stream(zeroed(way)):
                return way, False
        return dict.fromkeys(branches, ()), False

    def _with_residuals(self, branches: Branches) -> Iterator[Branches]:
        """The sublayers of either kind, or of both, returning what they add to."""
        other = {kind: tuple(map(self._residual, branches[kind])) for kind in KINDS}
        choices: tuple[tuple[SublayerKind, ...], ...] = (("attention",), ("mlp",), KINDS)
        for kinds in choices:
            changed = {k: other[k] if k in kinds else branches[k] for k in KINDS}
            if all(each.residual is not None for k in kinds for each in changed[k]):
                yield changed

    def _residual(self, branch: Sublayer) -> Sublayer:
        """The sublayer with the argument that may be its residual: the second of its shape."""
        args, kwargs = self._calls[branch.module]
        shape = first_tensor(self._outputs[branch.module]).shape
        named: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        like = [name for name, x in named if isinstance(x, Tensor) and x.shape == shape]
        return replace(branch, residual=like[1]) if len(like) > 1 else branch

    def _branch_norms(
        self, layer: nn.Module, run: LayerRun, branches: Branches
    ) -> dict[SublayerKind, tuple[nn.Module, ...]]:
        if type(layer) not in self._norm_names:
            self._norm_names[type(layer)] = norm_names(layer, run, branches)
        names = self._norm_names[type(layer)]
        return {kind: proved_norms(layer, run, branches[kind], names[kind]) for kind in branches}


def _named_modules(layer: nn.Module) -> Modules:
    """The sublayers of a layer whose modules have the usual names."""
    mixers = chain.from_iterable(_children(layer, names)[:1] for names in MIXER_NAMES)
    mlps = (_children(layer, names) for names in MLP_NAMES)
    complete = (m for m, names in zip(mlps, MLP_NAMES, strict=True) if len(m) == len(names))
    return {"attention": tuple(mixers), "mlp": tuple(next(complete, ()))}


def _children(layer: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    found = (getattr(layer, name, None) for name in names)
    return [module for module in found if isinstance(module, nn.Module)]
