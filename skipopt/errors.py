"""What can go wrong, in words for a user: one line, and a hint. Knows nothing of anything else."""

from __future__ import annotations


class SkipoptError(Exception):
    """Base of every error a user may see; the CLI prints it as one line plus `hint:`, exit 1."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(SkipoptError):
    """An option or argument that cannot be meant (exit 2)."""


class MaskError(SkipoptError):
    """A skip mask that does not parse, or does not fit the model."""


class ModelError(SkipoptError):
    """A model that cannot be loaded, or whose sublayers cannot be skipped."""


class ProfileError(SkipoptError):
    """A profile that does not parse, or belongs to another model."""


class PromptError(SkipoptError):
    """Prompts that are missing, empty, or longer than the model's context."""


class SearchError(SkipoptError):
    """A study that cannot go on: a journal of another search, a space with no masks left."""


class DraftConfigWarning(UserWarning):
    """Drafts that do without what their profile asks for; the text is the same."""


class OutputError(SkipoptError):
    """A file that could not be written; what stood there before is untouched."""
