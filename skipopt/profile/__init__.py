"""The profile: how a model drafts for itself, what was predicted and measured; as YAML.

Knows nothing of how a mask is found or run: it holds, checks, reads and writes values.
"""

from skipopt.profile.draft_settings import DraftSettings
from skipopt.profile.profile import Profile
from skipopt.profile.result_sections import (
    AblationSection,
    ExpectedSection,
    IntervalSection,
    MeasuredSection,
)
from skipopt.profile.sections import (
    CandidateSection,
    ContextBucketSection,
    EnvironmentSection,
    PredictedSection,
)
from skipopt.profile.skip_layers import read_skip_layers

__all__ = [
    "AblationSection",
    "CandidateSection",
    "ContextBucketSection",
    "DraftSettings",
    "EnvironmentSection",
    "ExpectedSection",
    "IntervalSection",
    "MeasuredSection",
    "PredictedSection",
    "Profile",
    "read_skip_layers",
]
