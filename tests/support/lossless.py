"""Check that two targets decode the same text, including rejected drafts."""

from __future__ import annotations

from skipopt.decoding.api import generate
from skipopt.models.target import Target
from skipopt.profile import Profile
from support.tiny import tiny_prompts


def text(target: Target, prompt: list[int], profile: Profile | None = None) -> list[int]:
    return [t.id for t in generate(target, prompt, profile=profile, max_new_tokens=20)]


def assert_lossless(target: Target, whole: Target) -> None:
    """Check plain decoding and decoding with drafts, some of which are rejected."""
    profile = Profile.by_hand(target, attention=[1], mlp=[2], gamma=3)
    for prompt in tiny_prompts(3, vocabulary=64):
        expected = text(whole, prompt)
        assert text(target, prompt) == expected
        assert text(target, prompt, profile) == expected
