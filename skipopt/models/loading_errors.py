"""What went wrong when a model was loaded: one line, and a hint that helps."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

from skipopt.errors import ModelError

HUB = "https://huggingface.co"
LANGUAGE_MODELS = "skipopt works on causal language models such as Llama, Qwen or GPT-2"


def loading_error(
    name: str, part: str, error: Exception, packages: Sequence[str] = ()
) -> ModelError:
    """The libraries' exception as an error of one line, with a hint.

    Args:
        name: how messages call the model.
        part: which could not be loaded: configuration, weights or tokenizer.
        packages: needed packages that are not installed.
    """
    text = " ".join(str(error).split())
    # Without the path, which may hold words of a message.
    words = text.replace(os.path.expanduser(name), "").replace(name, "")
    cannot = f"cannot load the {part} of {name!r}"
    if packages:
        return ModelError(
            f"{cannot}: it is quantized, and reading that needs {' and '.join(packages)}",
            hint=f"pip install {' '.join(packages)}",
        )
    if (found := _disk_error(cannot, error) or _hub_error(name, part, error)) is not None:
        return found
    if "trust_remote_code" in words:
        return ModelError(
            f"{name!r} needs its own code to run", hint="--trust-remote-code, if you trust it"
        )
    if "Unrecognized configuration class" in words or "model type" in words:
        return ModelError(
            f"{name!r} is not a decoder-only language model that transformers knows",
            hint=LANGUAGE_MODELS,
        )
    if isinstance(error, ImportError):
        return ModelError(
            f"{cannot}: {text[:200]}", hint="install the package that the message names"
        )
    if os.path.exists(os.path.expanduser(name)):
        hint = "a file may be damaged or missing: copy or download the model again"
    else:
        hint = "the download may be incomplete: repeat it, or try it with transformers alone"
    return ModelError(f"{cannot}: {text[:200]}", hint=hint)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that it came from."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _disk_error(cannot: str, error: Exception) -> ModelError | None:
    """A cache or a file that cannot be written or read; None for other errors."""
    for cause in _causes(error):
        if not isinstance(cause, OSError):
            continue
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return ModelError(
                f"{cannot}: the disk is full{_place(cause)}",
                hint="free some space, or download to another disk: HF_HOME=FOLDER",
            )
        if cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return ModelError(
                f"{cannot}: no permission{_place(cause)}",
                hint="change the permissions, or download to another folder: HF_HOME=FOLDER",
            )
    return None


def _place(error: OSError) -> str:
    return f" at {error.filename!r}" if error.filename else ""


def _hub_error(name: str, part: str, error: Exception) -> ModelError | None:
    """What the hub, or the lack of it, has refused; None for other errors."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    kinds = tuple(type(cause) for cause in _causes(error))

    def caused_by(*types: type[BaseException]) -> bool:
        return any(issubclass(kind, types) for kind in kinds)

    if caused_by(errors.GatedRepoError):
        return ModelError(
            f"{name!r} is gated: its owner decides who may download it",
            hint=f"request access at {HUB}/{name}, then log in: hf auth login",
        )
    if caused_by(errors.RevisionNotFoundError):
        return ModelError(
            f"{name!r} has no such revision on the hub",
            hint=f"choose a branch, tag or commit of {HUB}/{name}",
        )
    if caused_by(errors.RepositoryNotFoundError, errors.HFValidationError):
        return _not_found(name, "check the name; for a private model: hf auth login")
    if caused_by(errors.OfflineModeIsEnabled) or _is_offline(kinds):
        hint = "the hub is not asked, as HF_HUB_OFFLINE is set: unset it, or name a folder"
        if part == "configuration":
            return _not_found(name, hint)
        return ModelError(f"the {part} of {name!r} is not on this machine", hint=hint)
    if caused_by(errors.LocalEntryNotFoundError, httpx.TransportError, errors.HfHubHTTPError):
        return ModelError(
            f"model {name!r} is not on this machine, and the hub cannot be reached",
            hint="check the connection, or name a folder with the model",
        )
    if (
        part == "configuration"
        and not os.path.exists(os.path.expanduser(name))
        and caused_by(OSError)
    ):
        return _not_found(name, "check the name")
    return None


def _is_offline(kinds: Sequence[type[BaseException]]) -> bool:
    from huggingface_hub import constants, errors

    missing = any(issubclass(kind, errors.LocalEntryNotFoundError) for kind in kinds)
    return missing and bool(constants.HF_HUB_OFFLINE)


def _not_found(name: str, hint: str) -> ModelError:
    return ModelError(f"model {name!r} was not found, neither on disk nor on the hub", hint=hint)
