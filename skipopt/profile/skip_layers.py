"""Masks from the `skip_layers.json` files of Draft & Verify and SWIFT."""

from __future__ import annotations

from skipopt.errors import ProfileError
from skipopt.profile.parsing import parse_json, read_text
from skipopt.profile.sections import MaskSection
from skipopt.profile.validation_errors import show, validate


def read_skip_layers(spec: str) -> tuple[list[int], list[int]]:
    """(attention layers, MLP layers) of `FILE#name`, an entry of a `skip_layers.json`.

    The format of Draft & Verify (arXiv 2309.08168) and SWIFT (arXiv 2410.06916):
    `{"name": {"attention": [...], "mlp": [...]}}`. It does not name a model, so
    `Profile.by_hand` makes a profile of the layers.

    Raises:
        ProfileError: no such file or name, not JSON, or not lists of layer numbers.
    """
    file, _, name = spec.rpartition("#")
    if not file or not name:
        raise ProfileError(
            f"{spec!r} names no entry of a skip_layers file", hint="write it as FILE#name"
        )
    entries = parse_json(read_text(file), file)
    if not isinstance(entries, dict):
        raise ProfileError(
            f"{file}: the file holds {show(entries)}, expected a mapping of names to masks",
            hint='it should read {"name": {"attention": [...], "mlp": [...]}}',
        )
    if name not in entries:
        names = ", ".join(map(str, entries)) or "none at all"
        raise ProfileError(f"{file} has no entry {name!r}", hint=f"the entries are: {names}")
    mask = validate(MaskSection, entries[name], f"{file}#{name}")
    return list(mask.attention), list(mask.mlp)
