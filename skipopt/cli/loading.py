"""Load what commands name: a model, quietly, and its profile.

Knows nothing of what is done with them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
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
    """How a model is to be loaded, as the shared options have it."""

    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    runtime: str = "auto"
    device_map: str | None = None


class ProfileFile:
    """A profile that was read, before there is a model it could be for.

    Args:
        spec: a YAML file, or `FILE#name` in a `skip_layers.json`.

    Raises:
        ProfileError: it cannot be read.
    """

    def __init__(self, spec: str) -> None:
        from skipopt.profile import Profile, read_skip_layers

        self.model_id: str | None = None
        self.revision: str | None = None
        if "#" in spec and not Path(spec).exists():
            attention, mlp = read_skip_layers(spec)
            self._make: Callable[[Target], Profile] = lambda target: Profile.by_hand(
                target, attention=attention, mlp=mlp
            )
            return
        profile = Profile.load(spec)
        self.model_id, self.revision = profile.model.id, profile.model.revision
        self._make = lambda target: profile

    def for_target(self, target: Target) -> Profile:
        """The profile of this model.

        Raises:
            ProfileError: it is for another.
        """
        profile = self._make(target)
        profile.check_model(target.architecture, target.depth, target.fingerprint)
        return profile


def load_with_profile(
    model: str | None, spec: str | None, options: ModelOptions, output: Output
) -> tuple[Target, Profile | None]:
    """The model (the profile's own where none is named) and the profile, if one is asked for.

    A profile that was measured under other conditions is used, and that is noted.
    """
    if spec is None:
        return load_target(model or BUILTIN, options, output), None
    file = ProfileFile(spec)  # before the model: this fails sooner
    revision = options.revision
    if model is None and file.model_id is not None:
        model, revision = file.model_id, revision or file.revision
    target = load_target(model or BUILTIN, options, output, revision)
    profile = file.for_target(target)
    if (differences := unlike(profile, target)) is not None:
        output.note(
            f"the profile was measured under other conditions: {differences}; "
            "`skipopt search` finds what is best under these"
        )
    return target, profile


def unlike(profile: Profile, target: Target) -> str | None:
    """In what the profile's prices are not those of this process, in words; None where they are.

    A profile made by hand has none.
    """
    from skipopt.bench.provenance import conditions_of, differences

    if profile.environment is None:
        return None
    return differences(profile.environment.model_dump(), conditions_of(target)) or None


def load_target(
    model: str, options: ModelOptions, output: Output, revision: str | None = None
) -> Target:
    """Load a model as the options say; libraries keep quiet unless --verbose."""
    set_up_torch(options.threads, output)
    from skipopt.runtime.load import load

    with redirect_stdout(sys.stderr):  # gptqmodel prints its log; stdout is for results
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


def set_up_torch(threads: int | None, output: Output) -> None:
    """Before anything is computed: how many threads, and who may speak."""
    if not output.verbose:
        hush()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def hush() -> None:
    """No progress bars or warnings of libraries on stderr: it is ours."""
    import logging as standard_logging
    import os
    import warnings

    # Read by these libraries when they are imported, which is later.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", DraftConfigWarning)
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    standard_logging.getLogger("accelerate").setLevel(standard_logging.ERROR)
