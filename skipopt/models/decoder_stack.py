"""Find the decoder of a model: the stack of layers whose output the output projection reads.

Nothing is known by name: the model runs over a few tokens, and the stack is the last list of
modules that ran one after another. Towers for images and sound, which text does not reach, and
heads beside the output projection are thus left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.errors import ModelError
from skipopt.models.probe import run_probe

CLOSE = 1e-3  # of the largest logit: more is no rounding
HINT = "skipopt works on causal language models such as Llama, Qwen or GPT-2"


def layer_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The decoder layers, and their path in the model.

    Raises:
        ModelError: it is no causal language model of text, or there is no stack of
            as many layers as its configuration states.
    """
    depth = _stated_depth(model)
    found = [(name, layers) for name, layers in _stacks(model) if len(layers) == depth]
    if not found:  # layers that text does not reach, or that stand for several
        stacks = _stacks(model, in_full=False)
        found = [(name, layers) for name, layers in stacks if depth % len(layers) == 0]
    if not found:
        raise ModelError(
            f"no list of {depth} decoder layers found in {type(model).__name__}",
            hint="the architecture is not supported; please report it with `skipopt env`",
        )
    return found[-1]


def _stated_depth(model: nn.Module) -> int:
    """Number of layers that the configuration states.

    Raises:
        ModelError: the configuration or the embedding is not that of a decoder of text.
    """
    config: Any = model.config
    name = type(model).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name} is an encoder-decoder model: not a decoder-only language model", hint=HINT
        )
    text_config = config.get_text_config(decoder=True)
    depth = getattr(text_config, "num_hidden_layers", None)
    if not depth:
        raise ModelError(f"{name} is not a decoder-only language model", hint=HINT)
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    if isinstance(embedding, nn.ModuleList):
        raise ModelError(
            f"{name} reads and predicts {len(embedding)} streams of codes at once: not a language "
            "model of text",
            hint=HINT,
        )
    return int(depth)


@torch.no_grad()
def _stacks(model: nn.Module, in_full: bool = True) -> list[tuple[str, nn.ModuleList]]:
    """Lists of modules that ran one after another before the output projection did.

    Those inside others' modules are left out, and the order is that in which they ran.

    Args:
        in_full: each module once; else the first module and any others, as often as they did.

    Raises:
        ModelError: a token's logits depend on the tokens after it.
    """
    lists = [
        (name, each)
        for name, each in model.named_modules()
        if isinstance(each, nn.ModuleList) and len(each)
    ]
    ran: list[nn.Module] = []

    def note(module: nn.Module, args: Any) -> None:
        ran.append(module)

    projection: nn.Module | None = model.get_output_embeddings()  # type: ignore[operator]
    watched = {module for _, layers in lists for module in layers}
    with ExitStack() as stack:
        for module in watched | ({projection} if projection is not None else set()):
            stack.callback(module.register_forward_pre_hook(note).remove)
        logits = _logits(run_probe(model, use_cache=False))
    _check_causal(model, logits)
    end = ran.index(projection) if projection in ran else len(ran)
    places = {module: place for place, module in enumerate(ran[:end])}
    counts = Counter(ran[:end])
    ran_so = _ran_in_order if in_full else _ran_at_all
    stacks = [(name, each) for name, each in lists if ran_so(each, counts, places)]
    inner = {module for _, layers in stacks for module in _inside(layers)}
    outer = [(name, layers) for name, layers in stacks if layers not in inner]
    return sorted(outer, key=lambda each: places[each[1][0]])


def _inside(layers: nn.ModuleList) -> Iterator[nn.Module]:
    """Everything inside the layers."""
    for layer in layers:
        yield from (module for module in layer.modules() if module is not layer)


def _ran_in_order(
    layers: nn.ModuleList, ran: Counter[nn.Module], places: dict[nn.Module, int]
) -> bool:
    """Whether each layer, made of other modules, ran once, after those before it."""
    order = [places.get(layer, -1) for layer in layers]
    once = -1 not in order and all(count == 1 for count in map(ran.__getitem__, layers))
    return once and order == sorted(order) and all(any(layer.children()) for layer in layers)


def _ran_at_all(
    layers: nn.ModuleList, ran: Counter[nn.Module], places: dict[nn.Module, int]
) -> bool:
    """Whether the first layer ran; all are made of other modules."""
    return layers[0] in places and all(any(layer.children()) for layer in layers)


def _check_causal(model: nn.Module, logits: Tensor) -> None:
    """Raise ModelError if logits change with the last token that do not follow it."""
    other = _logits(run_probe(model, use_cache=False, other_end=True))
    before, after = logits[:, :-1].float(), other[:, :-1].float()
    if not before.numel():
        raise ModelError(
            f"{type(model).__name__} predicts only what follows the last token of a text",
            hint=HINT,
        )
    if not bool((before - after).abs().max() <= CLOSE * before.abs().max()) and bool(
        before.isfinite().all()
    ):
        raise ModelError(
            f"{type(model).__name__} is an encoder: each token sees those after it, and is not "
            "predicted from those before",
            hint=HINT,
        )


def _logits(output: Any) -> Tensor:
    logits: Tensor = output.logits if hasattr(output, "logits") else output[0]
    return logits
