"""The session's model as targets under several runtimes."""

from __future__ import annotations

from typing import Any

import skipopt
from benchmarks.gpu_parts.session import Session
from skipopt.errors import ModelError, SkipoptError
from skipopt.models.target import Target

DTYPE = "bfloat16"
RUNTIMES = ("eager", "captured")


def load_eager(session: Session) -> Target:
    """The session's model under `eager`.

    Raises:
        ModelError: no model was trained, and no checkpoint was given.
    """
    folder = session.model_folder
    if not folder.is_dir():
        raise ModelError(
            f"there is no model in {str(folder)!r}",
            hint="run the part train, or give --checkpoint",
        )
    return skipopt.load(folder, dtype=DTYPE, device=str(session.device), runtime="eager")


def under_runtimes(eager: Target) -> tuple[dict[str, Target], dict[str, str]]:
    """Targets that share the weights, and reasons why others are missing, by runtime."""
    targets, absent = {"eager": eager}, {}
    for runtime in RUNTIMES[1:]:
        try:
            targets[runtime] = _under(eager, runtime)
        except (SkipoptError, RuntimeError) as error:
            absent[runtime] = in_one_line(error)
    return targets, absent


def fastest(targets: dict[str, Target]) -> str:
    """The runtime that methods are compared on: the last of `RUNTIMES` that there is."""
    return [name for name in RUNTIMES if name in targets][-1]


def in_one_line(error: BaseException) -> str:
    """Type and message of an error, short enough for a table."""
    hint = getattr(error, "hint", None)
    text = " ".join(f"{error} ({hint})".split() if hint else str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def _under(eager: Target, runtime: str) -> Target:
    source: Any = (eager.model, eager.tokenizer)
    return skipopt.load(source, runtime=runtime)
