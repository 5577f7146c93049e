"""`--memory`: read the file of earlier texts; `run` also adds the new one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from skipopt.cli.streams import OutputClosed
from skipopt.errors import UsageError
from skipopt.interrupts import interrupts_held

if TYPE_CHECKING:
    from skipopt.cli.output import Output
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.models.target import Target


def read_memory(path: Path | None) -> DraftMemory | None:
    """The memory in a file, an empty one where there is no file, None without a path.

    It is called before a model is loaded.

    Raises:
        MemoryFileError: the file holds something else, or is damaged.
        OutputError: the file cannot be written.
    """
    if path is None:
        return None
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.files import check_writable

    memory = DraftMemory.load(path) if path.exists() else DraftMemory()
    check_writable(path)
    return memory


def open_memory(path: Path | None) -> DraftMemory | None:
    """The memory in a file that must exist, None without a path.

    Raises:
        MemoryFileError: there is no file, or it holds something else, or is damaged.
    """
    if path is None:
        return None
    from skipopt.draft_memory.memory import DraftMemory

    return DraftMemory.load(path)


def check_memory(memory: DraftMemory | None, path: Path | None, target: Target) -> None:
    """Check that the texts in a file may be drafts of a target.

    Raises:
        MemoryFileError: they have another tokenizer.
    """
    if memory is None or path is None:
        return
    from skipopt.draft_memory.memory_file import other_tokenizer

    try:
        memory.check_target(target)
    except UsageError:
        raise other_tokenizer(path) from None


@contextmanager
def save_memory_at_end(
    memory: DraftMemory | None, path: Path | None, output: Output
) -> Iterator[None]:
    """Save after decoding, also if it is interrupted or cannot be printed."""
    try:
        yield
    except (KeyboardInterrupt, OutputClosed, OSError):
        _save(memory, path, output)
        raise
    _save(memory, path, output)


def _save(memory: DraftMemory | None, path: Path | None, output: Output) -> None:
    """Add the texts of this run to the file, which other processes may have changed."""
    if memory is None or path is None:
        return
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.files import locked

    with interrupts_held(), locked(path):
        kept = memory
        if path.exists():
            kept = DraftMemory.load(path, memory.max_tokens, memory.tokenizer)
            for text in memory.recent_texts():
                kept.add(text)
        kept.save(path)
    output.note(f"remembers {kept.num_texts} texts, {kept.num_tokens} tokens, in {path}")
