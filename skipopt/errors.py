"""The errors a user may see: one line and a hint."""

from __future__ import annotations


class SkipoptError(Exception):
    """Base class; the command line prints it as one line plus `hint:` and exits with 1."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(SkipoptError):
    """An invalid option or argument; exit status 2."""


class MaskError(SkipoptError):
    """A skip mask that does not parse, or does not fit the model."""


class ModelError(SkipoptError):
    """A model that cannot be loaded, or whose sublayers cannot be skipped."""


class NotScoredError(ModelError):
    """A model whose masks cannot be scored; its drafts without a mask can."""


class ProfileError(SkipoptError):
    """A profile that does not parse, or belongs to another model."""


class PromptError(SkipoptError):
    """Prompts that are missing, empty, or longer than the model's context."""


class SearchError(SkipoptError):
    """A search that cannot run: a journal of another search, a space without masks."""


class MemoryFileError(SkipoptError):
    """A memory of texts that cannot be read, or belongs to another tokenizer."""


class DraftConfigWarning(UserWarning):
    """Part of a profile's draft config is not supported here; the text is the same without it."""


class OutputError(SkipoptError):
    """A file that could not be written; an existing file is unchanged."""
