"""GGUF files, the format of llama.cpp: how transformers' loader is called for one.

The loader turns every weight into an ordinary tensor, so the model is the same as one that was
loaded from a folder, with the values that its quantized weights stand for.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from skipopt.errors import ModelError

SUFFIX = ".gguf"
PACKAGES = ("gguf", "accelerate")
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
NOT_SCALED = ("", "none")  # of the key `rope.scaling.type`
COMPLETE_HINT = "the download may be incomplete: repeat it"


def gguf_path(source: str | Path) -> Path | None:
    """The absolute path of a GGUF file; None where the source does not name one."""
    path = Path(os.path.expanduser(source))
    is_gguf = path.suffix.lower() == SUFFIX or (path.is_file() and _magic(path) == b"GGUF")
    return path.resolve() if is_gguf else None


def check_gguf(path: Path) -> None:
    """Check before loading that the file is there, and is one that can be loaded.

    Raises:
        ModelError: no such file, no GGUF, cut off, or a package is missing.
    """
    if not path.is_file():
        raise ModelError(f"no GGUF file at {str(path)!r}", hint="check the path")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ModelError(
            f"reading a GGUF file needs {' and '.join(missing)}",
            hint="pip install 'skipopt[gguf]'",
        )
    if _magic(path) != b"GGUF":
        raise ModelError(f"{str(path)!r} is not a GGUF file", hint=COMPLETE_HINT)
    _header(path)


def gguf_options(path: Path) -> dict[str, Any]:
    """Arguments of `from_pretrained`, next to the file's folder, that load all its weights."""
    from transformers import GgufConfig

    return {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)}


def check_positions(path: Path, config: Any) -> None:
    """Refuse a file whose scaling of rotary positions the loader has left out.

    The loader reads the base frequency of most architectures and no scaling (transformers 5.23),
    and a model without it writes another text.

    Raises:
        ModelError: the file scales positions, and the config does not.
    """
    metadata, tensors = _header(path)
    parameters = getattr(config, "rope_parameters", None) or {}
    if (
        _scales_positions(metadata, tensors)
        and parameters.get("rope_type", "default") == "default"
    ):
        raise ModelError(
            f"{str(path)!r} scales its rotary positions, which transformers' GGUF loader leaves "
            "out, so that the text would differ from the model's",
            hint="load the model from its Hugging Face folder instead",
        )


def _scales_positions(metadata: Mapping[str, Any], tensors: Collection[str]) -> bool:
    architecture = metadata["general.architecture"]
    kind = str(metadata.get(f"{architecture}.rope.scaling.type", ""))
    return kind not in NOT_SCALED or any(name in tensors for name in ROPE_TENSORS)


def _header(path: Path) -> tuple[Mapping[str, Any], Collection[str]]:
    """Metadata and tensor names; raises ModelError where they cannot be read."""
    from transformers.integrations.gguf.reader import read_gguf_metadata

    try:
        return read_gguf_metadata(str(path))
    except Exception as error:  # a damaged file may raise anything
        reason = " ".join(str(error).split()).removeprefix(f"{path} ")[:120]
        raise ModelError(
            f"cannot read the header of {str(path)!r}: {reason}", hint=COMPLETE_HINT
        ) from error


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise ModelError(
            f"cannot read {str(path)!r}: {error.strerror}", hint="check the file's permissions"
        ) from None
