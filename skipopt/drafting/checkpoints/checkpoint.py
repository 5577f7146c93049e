"""Checkpoints of trained drafters: one safetensors file each.

Its metadata hold the version of the format, the kind, fingerprint and architecture of the model it
belongs to, the settings of the module, and facts about the training.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from skipopt.errors import SkipoptError
from skipopt.files import replacing
from skipopt.models.target import Target

FORMAT = 1
CheckpointKind = Literal["heads", "mask-tokens"]
KINDS: tuple[CheckpointKind, ...] = ("heads", "mask-tokens")
STORED_DTYPE = torch.float16
METADATA = ("format", "kind", "fingerprint", "architecture", "settings", "facts")


class CheckpointError(SkipoptError):
    """A checkpoint that cannot be read, or is of another kind or for another model."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The content of one file.

    Attributes:
        source: the path it was read from, for messages.
        kind: the kind of drafter.
        settings: of the module, such as the number of heads, as JSON; see `read_settings`.
        facts: about the training: `tokens`, `seconds`, `acceptance` per drafted position on
            held-out greedy text, `tokens_per_forward`, …
        tensors: the parameters by name.
    """

    source: str
    kind: CheckpointKind
    settings: str
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save(
    path: str | Path,
    kind: CheckpointKind,
    target: Target,
    module: nn.Module,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write the module's parameters in 16 bits, whole or not at all.

    Raises:
        OutputError: it could not be written; what stood there is untouched.
    """
    metadata = {
        "format": str(FORMAT),
        "kind": kind,
        "fingerprint": target.fingerprint,
        "architecture": target.architecture,
        "settings": json.dumps(settings),
        "facts": json.dumps(facts),
    }
    tensors = {
        name: tensor.detach().to("cpu", STORED_DTYPE).contiguous()
        for name, tensor in module.state_dict().items()
    }
    with replacing(Path(path)) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # all but a full disk was found by `replacing`
            raise OSError(errno.ENOSPC, str(error)) from None


def load(path: str | Path, kind: CheckpointKind, target: Target) -> Checkpoint:
    """Read the checkpoint of a drafter of this kind for this model.

    Raises:
        CheckpointError: no such file, not a checkpoint, one of another kind or format, or one
            trained for another model.
    """
    name = str(path)
    metadata, tensors = _read(name)
    _check_origin(name, metadata)
    if metadata["kind"] != kind:
        raise CheckpointError(
            f"{name!r} holds {metadata['kind']}, expected {kind}", hint=_train_again(kind)
        )
    if metadata["fingerprint"] != target.fingerprint:
        raise CheckpointError(
            f"{name!r} was trained for another model: its fingerprint is "
            f"{metadata['fingerprint']} ({metadata['architecture']}), this model's is "
            f"{target.fingerprint} ({target.architecture})",
            hint=_train_again(kind),
        )
    return Checkpoint(name, kind, metadata["settings"], _facts(name, metadata["facts"]), tensors)


def shipped(name: str, target: Target) -> Path | None:
    """The checkpoint of this name that comes with the package, if it is for this model.

    Args:
        name: `heads-ffn`, `heads-medusa`, `mask-tokens` or `mask-tokens-skipped`.
    """
    path = Path(str(files("skipopt") / "data" / "builtin-drafters" / f"{name}.safetensors"))
    if not path.is_file():
        return None
    metadata, _ = _read(str(path), tensors=False)
    return path if metadata.get("fingerprint") == target.fingerprint else None


Settings = TypeVar("Settings")


def read_settings(checkpoint: Checkpoint, adapter: TypeAdapter[Settings]) -> Settings:
    """The settings as the dataclass of the adapter.

    Raises:
        CheckpointError: an unknown key, or a wrong value.
    """
    try:
        return adapter.validate_json(checkpoint.settings)
    except ValidationError as failure:
        first = failure.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "the whole"
    raise CheckpointError(
        f"{checkpoint.source!r}: setting {where}: {first['msg']}",
        hint=_train_again(checkpoint.kind),
    )


def fill(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Load the tensors into a module made on the `meta` device, and freeze it.

    Raises:
        CheckpointError: a tensor is missing or unknown, or has another shape.
    """
    expected = module.state_dict()
    for name in sorted(expected.keys() | checkpoint.tensors.keys()):
        if problem := _misfit(expected.get(name), checkpoint.tensors.get(name)):
            raise CheckpointError(
                f"{checkpoint.source!r}: the tensor {name!r} {problem}",
                hint=_train_again(checkpoint.kind),
            )
    module.load_state_dict(dict(checkpoint.tensors), assign=True)
    module.requires_grad_(False).eval()


def _read(name: str, tensors: bool = True) -> tuple[dict[str, str], dict[str, Tensor]]:
    """(metadata, tensors) of a safetensors file."""
    if Path(name).is_dir():
        raise CheckpointError(f"{name!r} is a folder, expected a file", hint="name the file in it")
    try:
        with safe_open(name, framework="pt") as file:
            keys = file.keys() if tensors else []
            return file.metadata() or {}, {key: file.get_tensor(key) for key in keys}
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no file {name!r}", hint="`skipopt train` makes what a drafter needs"
        ) from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{name!r} is not a safetensors file: {error}",
            hint="it may be cut short: fetch it again, or train it again with `skipopt train`",
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"cannot read {name!r}: {error.strerror or error}", hint="check its permissions"
        ) from None


def _check_origin(name: str, metadata: Mapping[str, str]) -> None:
    """Check the format first, since with another one all other messages would mislead."""
    version = metadata.get("format", "")
    # transformers also writes the key `format`.
    if any(key not in metadata for key in METADATA) or not version.isdecimal():
        raise CheckpointError(
            f"{name!r} was not made by skipopt", hint="`skipopt train` makes what a drafter needs"
        )
    if version != str(FORMAT):
        raise CheckpointError(
            f"{name!r} has format {version:.9}, but this skipopt reads format {FORMAT} only",
            hint="upgrade skipopt, or train it again with this one",
        )


def _facts(name: str, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise CheckpointError(
            f"{name!r}: the facts about its training cannot be read",
            hint="train it again with `skipopt train`",
        )
    return facts


def _misfit(expected: Tensor | None, found: Tensor | None) -> str | None:
    if found is None:
        return "is missing"
    if expected is None:
        return "is unknown"
    if found.shape != expected.shape:
        return f"is of shape {list(found.shape)}, expected {list(expected.shape)}"
    return None if found.is_floating_point() else f"holds {found.dtype}, expected numbers"


def _train_again(kind: CheckpointKind) -> str:
    return f"train one for this model: skipopt train {kind}"
