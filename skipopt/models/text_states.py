"""What each decoder layer keeps of a text between forwards, and which modules keep it.

Keys, values and the keys of an index lie in the cache by position, so what follows a position can
be dropped. The states of recurrent layers and convolutions are those after the last token that was
read: to drop a token, an earlier state is needed (see `skipopt.runtime.state_checkpoint`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, cache_utils
from transformers.cache_utils import Cache, EncoderDecoderCache, LinearAttentionCacheLayerMixin

from skipopt.errors import ModelError
from skipopt.models.probe import run_probe

KEYS_AND_VALUES = {"keys", "values"}
INDEX = {"indexer_keys"}
STATES = {"conv_states", "recurrent_states"}
# Of layers that keep nothing; not in all versions of transformers.
EMPTY_LAYER: Any = getattr(cache_utils, "DummyLayer", ())
# Names of the cache in a model's forward: `cache` since transformers 5.24, before that the first
# of these or, in models without keys and values, one of the others.
KEYS_AND_VALUES_CACHE, STATES_CACHE = "past_key_values", "cache_params"
CACHE_ARGUMENTS = ("cache", KEYS_AND_VALUES_CACHE, STATES_CACHE, "state")


@dataclass(frozen=True, slots=True)
class CachedParts:
    """What the cache holds of one decoder layer.

    Attributes:
        keys: keys and values, by position.
        index: the keys of an index that chooses what attention sees, by position.
        states: number of states, each of a recurrence or a convolution or both.
        unknown: something else, in the cache that the model makes (see `own_cache`).
        reread: nothing: each forward reads the text from its start.
    """

    keys: bool = True
    index: bool = False
    states: int = 0
    unknown: bool = False
    reread: bool = False


PLAIN = CachedParts()
UNKNOWN = CachedParts(keys=False, unknown=True)
REREAD = CachedParts(keys=False, unknown=True, reread=True)


@dataclass(frozen=True, slots=True)
class StateModule:
    """A module that reads and writes states; its input has the shape (B, n, …).

    Attributes:
        layer: index of the layer in the cache.
        states: which of the layer's states.
        one_by_one: whether several rows at once do not go on from the states, as in Mamba.
        convolves: whether its states are the latest inputs of convolutions, one for each row, and
            nothing else.
    """

    module: nn.Module
    layer: int
    states: tuple[int, ...]
    one_by_one: bool = False
    convolves: bool = False


def cache_argument(model: Any) -> str:
    """The argument of the model's forward that takes the cache."""
    parameters = inspect.signature(type(model).forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in parameters), KEYS_AND_VALUES_CACHE)


def cache_arguments(model: Any, cache: Any, positions: Tensor) -> dict[str, Any]:
    """The arguments of the model's forward for a cache, and rows at these positions.

    Models that take no keys and values take no positions either.
    """
    name = cache_argument(model)
    takes_positions = "position_ids" in inspect.signature(type(model).forward).parameters
    if takes_positions or name == KEYS_AND_VALUES_CACHE:
        return {name: cache, "position_ids": positions}
    return {name: cache}


def keeps_states(model: Any) -> bool:
    """Whether layers keep states of a text that cannot be rewound by position."""
    try:
        layers = DynamicCache(config=model.config).layers
    except Exception:  # a configuration that transformers makes no cache for
        return False
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


@torch.no_grad()
def cached_parts(model: nn.Module, name: str, depth: int) -> tuple[CachedParts, ...]:
    """What each layer keeps, as the cache that the model creates shows.

    States may be in a module named like an attention.

    Args:
        name: the path of the layers in the model.

    Raises:
        ModelError: a layer keeps something that can be neither rewound nor saved, or the model
            takes one token at a time, so that it cannot verify drafts.
    """
    output = run_probe(model, use_cache=True)
    cache = getattr(output, cache_argument(model), None)
    caches = _cache_layers(cache)
    if len(caches) > depth:
        raise ModelError(
            f"{name} are {depth} layers, but transformers' cache has {len(caches)}: what belongs "
            "to a layer is not known",
            hint="choose a model whose layers have one attention each",
        )
    parts = tuple(
        _parts(caches[index] if index < len(caches) else None, f"{name}.{index}")
        for index in range(depth)
    )
    options: dict[str, Any] = {cache_argument(model): cache}
    run_probe(model, use_cache=True, **options)  # behind other tokens
    return parts


def _cache_layers(cache: Any) -> Sequence[Any]:
    """The layers of a cache; of one with a part for an encoder's text, those of the decoder."""
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    layers: Sequence[Any] = getattr(cache, "layers", ())
    return layers


def _parts(cache: Any, where: str) -> CachedParts:
    kept = set() if cache is None else _tensor_names(cache)
    keys, states = kept >= KEYS_AND_VALUES, bool(kept & STATES)
    known = kept <= KEYS_AND_VALUES | INDEX | STATES and keys == bool(kept & KEYS_AND_VALUES)
    if not known or not (kept or isinstance(cache, EMPTY_LAYER)):
        what = ", ".join(sorted(kept)) or "nothing"
        raise ModelError(
            f"{where} keeps {what} of a text in transformers' cache: after a rejected draft, only "
            "keys, values, index keys and states of recurrent layers there can be restored",
            hint="choose a model whose layers keep these only",
        )
    return CachedParts(keys, kept >= INDEX, cache.number_of_states if states else 0)


def _tensor_names(cache: Any) -> set[str]:
    """Names of the tensors in one layer's cache."""
    kept: set[str] = set()
    for name, value in vars(cache).items():
        parts = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(part, Tensor) and part.ndim > 1 for part in parts):
            kept.add(name)
    return kept


Call = tuple[tuple[Any, ...], dict[str, Any]]  # args and kwargs


@torch.no_grad()
def state_modules(model: nn.Module, layers: Iterable[nn.Module]) -> tuple[StateModule, ...]:
    """The modules that read and write states, in the order in which they run.

    Found by running the model: the innermost module that runs when a state is written.

    Args:
        layers: the decoder layers.

    Raises:
        ModelError: a module does not go on from its states.
    """
    running: list[tuple[nn.Module, Call]] = []
    cache = _RecordingCache(model.config, running)
    with _recorded_calls(layers, running):
        options: dict[str, Any] = {cache_argument(model): cache}
        run_probe(model, use_cache=True, **options)
    one_by_one: dict[type[nn.Module], bool] = {}
    for (module, _), call in cache.calls.items():
        if type(module) not in one_by_one:
            one_by_one[type(module)] = _reads_one_by_one(module, call, model.config)
    return tuple(
        StateModule(
            module,
            layer,
            tuple(sorted(states)),
            one_by_one[type(module)],
            (module, layer) not in cache.others and not one_by_one[type(module)],
        )
        for (module, layer), states in cache.writers.items()
    )


CLOSE = 1e-3  # relative to the largest value


def _reads_one_by_one(module: nn.Module, call: Call, config: Any) -> bool:
    """Whether rows must be given one at a time once the module has states.

    Its rows are run in two parts, and the second part must be what it is in one run. If it would
    be the same without the first part, that proves nothing.

    Raises:
        ModelError: the second part differs even when its rows are given one at a time.
    """
    count = _hidden(*call).shape[1]
    half = count // 2

    def last_rows(*bounds: int) -> Tensor:
        cache = DynamicCache(config=config)
        args, kwargs = (_with_cache(each, cache) for each in call)
        whole = bounds[0] == 0
        output = in_parts(module.forward, bounds, {}, *args, **kwargs)
        first: Tensor = output[0] if isinstance(output, tuple) else output
        return first[:, half:] if whole else first

    expected = last_rows(0, count)
    if _close(last_rows(0, half, count), expected) and not _close(
        last_rows(half, count), expected
    ):
        return False
    if _close(last_rows(0, *range(half, count + 1)), expected):
        return True
    raise ModelError(
        f"{type(module).__name__} does not go on from the states of a text that it has read",
        hint="try another --dtype, or whether the model generates text at all",
    )


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= CLOSE * expected.abs().max())


def _with_cache(values: Any, cache: DynamicCache) -> Any:
    """Arguments with this cache in place of their own."""
    if isinstance(values, dict):
        return {name: _with_cache((each,), cache)[0] for name, each in values.items()}
    return tuple(cache if isinstance(each, Cache) else each for each in values)


class _RecordingCache(DynamicCache):
    """Notes which module writes which state.

    Args:
        running: the modules that run at present with their arguments, the innermost last.

    Attributes:
        writers: by module and layer, the numbers of the states.
        calls: by module and layer, the module's arguments.
        others: those that write more than the inputs of a convolution.
    """

    def __init__(self, config: Any, running: Sequence[tuple[nn.Module, Call]]) -> None:
        super().__init__(config=config)
        self.running = running
        self.writers: dict[tuple[nn.Module, int], set[int]] = {}
        self.calls: dict[tuple[nn.Module, int], Call] = {}
        self.others: set[tuple[nn.Module, int]] = set()

    def update_conv_state(
        self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> Tensor:
        rows = _hidden(*self.running[-1][1]).shape[1]
        self._note(layer_idx, state_idx, conv_states.shape[-1] == rows)
        return super().update_conv_state(conv_states, layer_idx, state_idx, **kwargs)

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> Tensor:
        self._note(layer_idx, state_idx, False)
        return super().update_recurrent_state(recurrent_states, layer_idx, state_idx, **kwargs)

    def _note(self, layer: int, state: int, convolves: bool) -> None:
        module, call = self.running[-1]
        if not convolves:
            self.others.add((module, layer))
        self.writers.setdefault((module, layer), set()).add(state)
        self.calls[module, layer] = call


@contextmanager
def _recorded_calls(
    layers: Iterable[nn.Module], running: list[tuple[nn.Module, Call]]
) -> Iterator[None]:
    """Inside, `running` holds the modules of these layers that run at present."""

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        running.append((module, (args, kwargs)))

    def leave(module: nn.Module, *args: Any) -> None:
        running.pop()

    with ExitStack() as stack:
        for module in {module for layer in layers for module in layer.modules()}:
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        yield


Forward = Callable[..., Any]


def in_parts(
    forward: Forward,
    bounds: Sequence[int],
    after: Mapping[int, Callable[[], None]],
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """A state module's forward over its rows in parts.

    Args:
        forward: of the module.
        bounds: ascending: the first row of each part, and the end of the last.
        after: by row, what to call when the rows before it have run.
    """
    count = _hidden(args, kwargs).shape[1]
    results = []
    for start, end in pairwise(bounds):
        rows = slice(start, end)
        part = [_rows(each, rows, count) for each in args]
        named = {name: _rows(each, rows, count) for name, each in kwargs.items()}
        results.append(forward(*part, **named))
        if end in after:
            after[end]()
    return _joined(results, [end - start for start, end in pairwise(bounds)])


def _hidden(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _rows(value: Any, rows: slice, count: int) -> Any:
    """Some rows of a tensor (B, n, …), or of those in a tuple; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_rows(each, rows, count) for each in value)
    return value[:, rows] if _has_rows(value, count) else value


def _joined(parts: Sequence[Any], counts: Sequence[int]) -> Any:
    """The rows of several results, also in tuples; what has no rows is the last one's.

    Args:
        counts: rows of each result.
    """
    if isinstance(parts[-1], tuple):
        return tuple(_joined(each, counts) for each in zip(*parts, strict=True))
    if all(map(_has_rows, parts, counts)):
        return torch.cat(list(parts), 1)
    return parts[-1]


def _has_rows(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == count
