"""The profile: a mask with its γ and τ, for which model, how fast, and how it was found; as YAML.

Knows nothing of how a mask is found or run: it holds, checks, reads and writes the facts.
"""

from skipopt.profile.document import Profile
from skipopt.profile.draft_settings import DraftSettings
from skipopt.profile.parts import ContextBucketSection, Environment, Interval, Measured, Predicted
from skipopt.profile.skip_layers import read_skip_layers

__all__ = [
    "ContextBucketSection",
    "DraftSettings",
    "Environment",
    "Interval",
    "Measured",
    "Predicted",
    "Profile",
    "read_skip_layers",
]
