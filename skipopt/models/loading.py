"""Load model and tokenizer: from the hub, a local folder, a GGUF file, or the built-in model."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from skipopt.errors import ModelError, UsageError
from skipopt.models.device_map import read_device_map
from skipopt.models.gguf import check_gguf, check_positions, gguf_options, gguf_path
from skipopt.models.loading_errors import LANGUAGE_MODELS, loading_error
from skipopt.models.unread_weights import belongs_to_layers

BUILTIN = "builtin"
DTYPES = ("auto", "float32", "bfloat16", "float16")
# Packages that transformers needs for a quantized checkpoint. Its own message names one at a time,
# or asks for a GPU.
QUANTIZATION_PACKAGES = {"gptq": ("optimum", "gptqmodel"), "awq": ("gptqmodel", "accelerate")}


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Turns off the progress bars of transformers and of downloads meanwhile."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@no_progress_bars()
def load_model(
    source: str | Path = BUILTIN,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    on_notice: Callable[[str], None] | None = None,
    **model_options: Any,
) -> tuple[Any, Any]:
    """Model and tokenizer of a hub id, a folder, a GGUF file or `builtin`, on its device.

    Args: as for `skipopt.load`.

    Raises:
        ModelError: not found, damaged, or not a decoder-only language model.
        UsageError: an unknown dtype, device or device map, or no accelerate for the last.
    """
    if not str(source).strip():
        raise ModelError("the name of the model is empty", hint=f"{BUILTIN!r} is one to try")
    chosen = resolve_device(device)
    options = {
        "dtype": resolve_dtype(dtype, chosen),
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        **model_options,
    }
    if device_map is not None:
        options["device_map"] = read_device_map(device_map)
    if (file := gguf_path(source)) is not None:
        check_gguf(file)
        model, tokenizer = _from_pretrained(
            str(file.parent), str(source), gguf_options(file) | options, on_notice, file
        )
    else:
        path = builtin_folder() if str(source) == BUILTIN else str(source)
        model, tokenizer = _from_pretrained(path, str(source), options, on_notice)
    if device_map is None and not getattr(model, "hf_quantizer", None):
        model = _move(model, chosen)
    return model, tokenizer


def model_id(source: str | Path) -> str:
    """What a profile calls the model: the absolute path of a file or folder, else as it was named.

    A folder's name would be looked up on the hub where there is no such folder.
    """
    if (file := gguf_path(source)) is not None:
        return str(file)
    folder = Path(os.path.expanduser(source))
    is_folder = str(source) != BUILTIN and folder.is_dir()
    return str(folder.absolute()) if is_folder else str(source)


def builtin_folder() -> str:
    """Folder of the built-in model inside the installed package."""
    return str(files("skipopt") / "data" / "builtin")


def resolve_device(device: str) -> str:
    """The device; for `auto` the first available of `cuda`, `mps` and `cpu`.

    Raises:
        UsageError: the device is unknown or absent.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.device(device)
    except RuntimeError:
        raise UsageError(f"unknown device {device!r}", hint="use auto, cpu or cuda") from None
    # Each backend raises its own exception when it is absent.
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError):
        raise UsageError(
            f"device {device!r} is not available here", hint="use --device cpu"
        ) from None
    return device


def resolve_dtype(dtype: str, device: str) -> Any:
    """The torch dtype, or `"auto"` (the checkpoint's own) on a GPU."""
    import torch

    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}", hint=f"use one of {', '.join(DTYPES)}")
    if dtype == "auto":
        return torch.float32 if device == "cpu" else "auto"
    return getattr(torch, dtype)


def _from_pretrained(
    path: str,
    name: str,
    options: dict[str, Any],
    on_notice: Callable[[str], None] | None,
    gguf: Path | None = None,
) -> tuple[Any, Any]:
    """Config, then weights, then tokenizer, each failure named.

    Args:
        path: a folder, or a hub id.
        name: how messages call the model.
        gguf: the file in the folder that holds all three.
    """
    from transformers import AutoConfig, AutoTokenizer

    path = os.path.expanduser(path)
    if path.startswith((".", "/", "~")) and not Path(path).is_dir():
        raise ModelError(f"no model folder at {name!r}", hint="check the path")
    shared = {
        k: options[k] for k in ("revision", "trust_remote_code", "gguf_file") if k in options
    }
    with _translate_errors(name, "configuration"):
        config = AutoConfig.from_pretrained(path, **shared)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name!r} is an encoder-decoder model ({config.model_type}), not a decoder-only one",
            hint=LANGUAGE_MODELS,
        )
    if gguf is not None:
        check_positions(gguf, config)
        options = {**options, "config": config}  # reading it again takes as long as the weights
    with _translate_errors(name, "weights", _missing_packages(config)):
        model_class = _model_class(config)
        loaded: Any = model_class.from_pretrained(path, output_loading_info=True, **options)
    model, found = loaded
    _check_complete(name, found["missing_keys"])
    _check_unread(name, model, found["unexpected_keys"], on_notice)
    with _translate_errors(name, "tokenizer"):
        return model, AutoTokenizer.from_pretrained(path, **shared)


def _model_class(config: Any) -> Any:
    """What loads the checkpoint: the class that transformers knows for its type of config.

    Where that is a part of the config of another type, the checkpoint names the class.
    """
    import transformers
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    if type(config) in auto._model_mapping or getattr(config, "auto_map", None):
        return auto
    named = next(iter(getattr(config, "architectures", None) or ()), "")
    return getattr(transformers, named, auto) if named.endswith("ForCausalLM") else auto


def _check_complete(name: str, missing: Collection[str]) -> None:
    """Refuse missing weights: transformers fills them with random numbers.

    So it does with all weights of a quantization that it does not know.
    """
    if missing:
        raise ModelError(
            f"{name!r} lacks {len(missing)} of the model's weights, {min(missing)!r} among them",
            hint="the checkpoint may be of another model, or quantized in a way that transformers "
            "does not know",
        )


def _check_unread(
    name: str, model: Any, unread: Collection[str], on_notice: Callable[[str], None] | None
) -> None:
    """Refuse weights of the decoder that the configuration leaves out; tell of others.

    A quantized checkpoint may hold more than is read.
    """
    own = [key for key in unread if belongs_to_layers(model, key)]
    if own and not getattr(model, "hf_quantizer", None):
        raise ModelError(
            f"{name!r} holds {len(own)} weights that its configuration leaves out, "
            f"{min(own)!r} among them",
            hint="config.json may be of another model: compare its layers and biases",
        )
    if unread and on_notice is not None:
        on_notice(f"{name}: {len(unread)} weights are not read, {min(unread)!r} among them")


def _missing_packages(config: Any) -> list[str]:
    """Packages that this checkpoint's quantization needs and that are not installed."""
    settings = getattr(config, "quantization_config", None)
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    return [
        package
        for package in QUANTIZATION_PACKAGES.get(str(method), ())
        if find_spec(package) is None
    ]


@contextmanager
def _translate_errors(name: str, part: str, packages: Sequence[str] = ()) -> Iterator[None]:
    """Turn any exception of the libraries, which a damaged file may cause, into a ModelError.

    Args:
        packages: needed packages that are not installed.
    """
    try:
        yield
    except Exception as error:
        raise loading_error(name, part, error, packages) from error


def _move(model: Any, device: str) -> Any:
    import torch

    try:
        return model.to(device)
    except torch.cuda.OutOfMemoryError:
        raise ModelError(
            f"the model does not fit in the memory of {device}",
            hint="use --device-map auto, --device cpu, or a smaller --dtype",
        ) from None
