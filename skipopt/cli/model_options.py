"""Load the model that a command names, and its profile."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skipopt.cli.output import Output
from skipopt.errors import DraftConfigWarning

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.profile import Profile

BUILTIN = "builtin"


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a model is loaded; see `skipopt.load`."""

    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    runtime: str = "auto"
    device_map: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False


class ProfileFile:
    """A profile that was read before its model is loaded.

    Args:
        spec: a YAML file, or `FILE#name` for an entry of a `skip_layers.json`.

    Raises:
        ProfileError: it cannot be read.
    """

    def __init__(self, spec: str) -> None:
        from skipopt.decoding.api import load_profile
        from skipopt.profile import Profile, read_skip_layers

        self.model_id: str | None = None
        self.revision: str | None = None
        if "#" in spec and not Path(spec).exists():
            attention, mlp = read_skip_layers(spec)
            self._make: Callable[[Target], Profile] = lambda target: Profile.by_hand(
                target, attention=attention, mlp=mlp
            )
            return
        profile = load_profile(spec)
        self.model_id, self.revision = profile.model.id, profile.model.revision
        self._make = lambda target: profile

    def for_target(self, target: Target) -> Profile:
        """The profile, checked against the model.

        Raises:
            ProfileError: it is for another model.
        """
        profile = self._make(target)
        profile.check_model(target)
        return profile


def load_with_profile(
    model: str | None, spec: str | None, options: ModelOptions, output: Output
) -> tuple[Target, Profile | None]:
    """Load the profile, if one is given, and the model: the profile's if none is named.

    A note is printed where the profile was measured under other conditions.
    """
    if spec is None:
        return load_target(BUILTIN if model is None else model, options, output), None
    file = ProfileFile(spec)  # before the model, because this fails sooner
    revision = options.revision
    if model is None and file.model_id is not None:
        model, revision = file.model_id, revision or file.revision
    target = load_target(BUILTIN if model is None else model, options, output, revision)
    profile = file.for_target(target)
    if changed := changed_conditions(profile, target):
        output.note(
            f"the profile was measured under other conditions: {changed}; "
            "`skipopt search` finds the best one for these"
        )
    return target, profile


def changed_conditions(profile: Profile, target: Target) -> str:
    """How the profile's environment differs from this process in words; empty if it does not.

    A profile made by hand has no environment.
    """
    from skipopt.measurement.provenance import conditions_of, differences

    if profile.environment is None:
        return ""
    return differences(profile.environment.model_dump(), conditions_of(target))


def load_target(
    model: str, options: ModelOptions, output: Output, revision: str | None = None
) -> Target:
    """Load a model; messages of libraries are shown only with --verbose."""
    if output.live:
        output.note(f"loading {model}")
    with without_collection():
        set_up_torch(options.threads, output)
        return _load(model, options, output, revision)


def _load(model: str, options: ModelOptions, output: Output, revision: str | None) -> Target:
    from skipopt.runtime.load import load

    with redirect_stdout(sys.stderr):  # gptqmodel prints its log on stdout
        return load(
            model,
            dtype=options.dtype,
            device=options.device,
            revision=revision or options.revision,
            trust_remote_code=options.trust_remote_code,
            runtime=options.runtime,
            device_map=options.device_map,
            on_notice=output.note,
        )


@contextmanager
def without_collection() -> Iterator[None]:
    """Inside, garbage is not collected; what exists at the end is never looked at again.

    Libraries and model are many objects that live as long as the process.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def set_up_torch(threads: int | None, output: Output) -> None:
    """Set the number of CPU threads, and silence libraries unless --verbose."""
    if not output.verbose:
        silence_libraries()
    set_threads(threads, output.note)


def set_threads(threads: int | None, on_note: Callable[[str], None]) -> None:
    """Set the number of CPU threads: at most one for each core, since more wait for each other.

    Args:
        threads: None: as torch has chosen, from `OMP_NUM_THREADS` if that is set.
        on_note: called with a line if fewer threads are used than asked for.
    """
    import torch

    from skipopt.machine import usable_cores

    asked = torch.get_num_threads() if threads is None else threads
    used = min(asked, usable_cores())
    if used < asked:
        on_note(f"{used} instead of {asked} threads: one for each core that may be used here")
    if used != torch.get_num_threads():
        torch.set_num_threads(used)


def silence_libraries() -> None:
    """Turn off progress bars and warnings of libraries."""
    import logging as standard_logging
    import os
    import warnings

    # Read by these libraries when they are imported, which is later.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # the GGUF loader draws its own bar
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", DraftConfigWarning)
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    standard_logging.getLogger("accelerate").setLevel(standard_logging.ERROR)
