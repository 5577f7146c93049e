"""Writes a model folder that transformers decodes with a profile.

The folder holds the model's own files and `custom_generate/generate.py`. With
`trust_remote_code=True` transformers loads that file with the model, whose `generate` then decodes
with the profile; so does `generate(…, custom_generate=FOLDER)` of a model loaded elsewhere.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skipopt.errors import OutputError, UsageError
from skipopt.files import write_atomically
from skipopt.methods import parse_method
from skipopt.models.gguf import gguf_path
from skipopt.models.loading import BUILTIN, no_progress_bars

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.profile import Profile

Weights = Literal["link", "copy"]

CONFIG, PROFILE, CODE = "config.json", "profile.yaml", Path("custom_generate/generate.py")
OWN = (CONFIG, PROFILE)  # written, not taken over
# Files of a model repository that transformers reads; not weights of other libraries.
PATTERNS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py", "*.bin", "LICENSE*")

GENERATE = '''\
"""Decodes with skipopt, by the profile below. Written by `skipopt export`."""

import skipopt

PROFILE = """
{profile}"""

DECODER = skipopt.decoder(skipopt.Profile.parse(PROFILE, __file__))


def generate(*inputs, model, custom_generate=None, **options):
    """What the model's own `generate` returns."""
    loop = DECODER if custom_generate is None else custom_generate
    return type(model).generate(model, *inputs, custom_generate=loop, **options)
'''


def export(
    target: Target,
    profile: Profile,
    folder: str | Path,
    *,
    weights: Weights = "link",
    overwrite: bool = False,
) -> Path:
    """Write a model folder that transformers decodes with the profile; returns its path.

    A model that was given as an object is saved. Of any other its files are taken, whatever was
    changed in memory. The folder's configuration names the dtype in which the target is loaded.

    Args:
        weights: `link` makes symbolic links to the files of the model, `copy` copies them.
        overwrite: write into a folder that is not empty; its other files stay.

    Raises:
        ProfileError: the profile is for another model.
        UsageError: a model without a folder of its own, or a profile that needs further files.
        OutputError: the folder is not empty, or cannot be written.
    """
    profile.check_model(target)
    _check_method(profile)
    folder = Path(folder).expanduser()
    source = _source_folder(target)
    _check_folder(folder, source, overwrite)
    try:
        (folder / CODE).parent.mkdir(parents=True, exist_ok=True)
        if source is None:
            with no_progress_bars():
                target.model.save_pretrained(folder)
                target.tokenizer.save_pretrained(folder)
        else:
            _take_over(source, folder, weights)
        _write_config((source or folder) / CONFIG, folder / CONFIG, target.dtype)
    except OSError as error:
        raise OutputError(
            f"cannot write {str(folder)!r}: {error.strerror or error}", hint="choose another -o"
        ) from None
    text = profile.to_yaml()
    _write(folder / PROFILE, text)
    _write(folder / CODE.parent / "requirements.txt", f"skipopt>={version('skipopt')}\n")
    _write(folder / CODE, GENERATE.format(profile=_quoted(text)))
    return folder


def _write(path: Path, text: str) -> None:
    """Write a file; a link is replaced, not what it points to."""
    if path.is_symlink():
        path.unlink()
    write_atomically(path, text)


def _quoted(text: str) -> str:
    """The text inside three quotes."""
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def _check_method(profile: Profile) -> None:
    """Refuse a method that reads a file of this machine."""
    checkpoint = parse_method(profile.drafting.method).options.get("checkpoint")
    if checkpoint is not None and Path(str(checkpoint)).suffix:
        raise UsageError(
            f"the profile's method reads {checkpoint}, which the folder would lack",
            hint="export a profile of another method",
        )


def _source_folder(target: Target) -> Path | None:
    """The folder with the model's files; None for a model that was given as an object.

    Raises:
        UsageError: a GGUF file, or an object without a tokenizer.
    """
    if gguf_path(target.model_id) is not None:
        raise UsageError(
            "a GGUF file cannot be exported", hint="give the model's folder or Hugging Face id"
        )
    if target.model_id == target.architecture:
        if target.tokenizer is None:
            raise UsageError(
                "this target has no tokenizer to save",
                hint="load it with skipopt.load((model, tokenizer))",
            )
        return None
    own = Path(target.model.name_or_path)
    if target.model_id == BUILTIN or own.is_dir():
        return own
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(target.model_id, revision=target.revision, allow_patterns=list(PATTERNS))
    )


def _check_folder(folder: Path, source: Path | None, overwrite: bool) -> None:
    if source is not None and folder.exists() and folder.samefile(source):
        raise OutputError(
            f"{str(folder)!r} is the model's own folder", hint="choose another folder with -o"
        )
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise OutputError(
            f"{str(folder)!r} is not empty", hint="choose another -o, or give --overwrite"
        )


def _take_over(source: Path, folder: Path, weights: Weights) -> None:
    """Link or copy the model's files."""
    for file in sorted(source.iterdir()):
        if file.name.startswith(".") or file.name in OWN or not file.is_file():
            continue
        place = folder / file.name
        place.unlink(missing_ok=True)
        if weights == "link":
            place.symlink_to(file.resolve())
        else:
            shutil.copyfile(file, place)


def _write_config(source: Path, place: Path, dtype: str) -> None:
    config = json.loads(source.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    _write(place, json.dumps(config | {"dtype": dtype}, indent=2) + "\n")
