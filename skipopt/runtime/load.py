"""Load a model, prove its sublayers, and put it on a runtime: what `skipopt.load` calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skipopt.errors import ModelError
from skipopt.models.identity import context_limit, eos_ids, fingerprint
from skipopt.models.loading import BUILTIN, load_model, model_id
from skipopt.models.model_lock import model_lock
from skipopt.models.proof import find_sublayers
from skipopt.models.sublayers import check_layers, evaluating
from skipopt.models.target import Target
from skipopt.runtime.runtime import make_runtime
from skipopt.runtime.setup import check_runtime

KEPT = "_skipopt_target"  # in the model's `__dict__`


def load(
    source: str | Path | tuple[Any, Any] = BUILTIN,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    runtime: str = "auto",
    on_notice: Callable[[str], None] | None = None,
    **model_options: Any,
) -> Target:
    """Load a decoder-only language model and prove that its sublayers can be skipped.

    Args:
        source: a Hugging Face id, a local folder, a `.gguf` file (dequantized, so that it takes
            the memory of its weights in `dtype`), `"builtin"`, or `(model, tokenizer)`.
        dtype: `auto` is float32 on a CPU and the checkpoint's own dtype on a GPU.
        device: `auto` is the GPU where there is one; ignored with `device_map`.
        device_map: as in transformers: `"auto"` spreads a large model over GPUs, memory and disk;
            or a place for each module. Needs accelerate.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model. Off unless asked for.
        runtime: one of `skipopt.runtime.setup.RUNTIMES`. `eager` runs transformers' modules as
            they are; `native` records steps and runs them on skipopt's compiled kernels, on a
            CPU; `prepacked` runs modules and packs the weights of linear layers on a CPU where a
            measurement shows that it pays; `captured` captures steps and replays them, with
            prepacked weights; `inductor` captures steps that `torch.compile` compiled; `auto` is
            the fastest that works here. A model that is spread over devices or offloaded runs
            eagerly.
        on_notice: called with one line when the model runs in a way other than asked for, now
            or later, and when a checkpoint holds weights that are not read.
        model_options: passed on to `from_pretrained` (`quantization_config`, …).

    Raises:
        ModelError: not found, weights missing or left out by the configuration, not decoder-only,
            or not skippable. With `HF_HUB_OFFLINE=1` only local files are looked at.
        UsageError: an unknown runtime, dtype, device or device map, or no accelerate for the last.
    """
    check_runtime(runtime)
    if isinstance(source, tuple):
        model, tokenizer = source
        return make_target(model, tokenizer, runtime=runtime, on_notice=on_notice)
    model, tokenizer = load_model(
        source,
        dtype=dtype,
        device=device,
        device_map=device_map,
        revision=revision,
        trust_remote_code=trust_remote_code,
        on_notice=on_notice,
        **model_options,
    )
    return make_target(model, tokenizer, model_id(source), revision, runtime, on_notice)


def make_target(
    model: Any,
    tokenizer: Any,
    model_id: str | None = None,
    revision: str | None = None,
    runtime: str = "auto",
    on_notice: Callable[[str], None] | None = None,
) -> Target:
    """Prove that the model's sublayers can be skipped, and wrap it. Puts it in evaluation mode.

    Args:
        model_id: recorded in profiles; the model's class name by default.
        runtime: one of `skipopt.runtime.setup.RUNTIMES`.
        on_notice: see `load`.

    Raises:
        ModelError: not a decoder-only model, or a layer that cannot be skipped.
        UsageError: an unknown runtime.
    """
    check_runtime(runtime)
    with model_lock(model):
        with evaluating(model):
            layers = find_sublayers(model)
        model.eval()
        return Target(
            model=model,
            tokenizer=tokenizer,
            layers=layers,
            model_id=model_id or type(model).__name__,
            revision=revision,
            fingerprint=fingerprint(model),
            eos_ids=eos_ids(model),
            context_limit=context_limit(model),
            runtime=make_runtime(model, layers, runtime, on_notice),
        )


@dataclass(frozen=True)
class _Kept:
    """A target in the `__dict__` of its own model, with which it is deleted."""

    target: Target | None = None

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        """A copied or saved model has no target."""
        return _Kept, ()


def kept_target(model: Any) -> Target:
    """A target without a tokenizer: the one that an earlier call made, if it still fits the model.

    So captured steps and the KV cache are there once, however often this is called. Puts the
    model in evaluation mode.

    Raises:
        ModelError: as `make_target`.
    """
    with model_lock(model):
        kept: Target | None = model.__dict__.get(KEPT, _Kept()).target
        if kept is None or kept.model is not model or not _has_layers(model, kept):
            kept = make_target(model, None)
        model.eval()
        kept = replace(kept, fingerprint=fingerprint(model), context_limit=context_limit(model))
        model.__dict__[KEPT] = _Kept(kept)
        return kept


def keep_target(target: Target) -> None:
    """Let `kept_target` return this one for its model: its runtime is then the only one."""
    with model_lock(target.model):
        target.model.__dict__[KEPT] = _Kept(target)


def _has_layers(model: Any, target: Target) -> bool:
    try:
        check_layers(model, target.layers)
    except ModelError:
        return False
    return True
