"""A complete profile, as a value and as its golden file, and invalid versions of the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from skipopt.errors import ProfileError
from skipopt.masks import SkipMask
from skipopt.profile import Profile

GOLDEN = Path(__file__).parents[1] / "golden" / "profile.yaml"
GOLDEN_TEXT = GOLDEN.read_text(encoding="utf-8")


@dataclass(frozen=True)
class FakeTarget:
    model_id: str = "builtin"
    revision: str | None = None
    architecture: str = "LlamaForCausalLM"
    depth: int = 16
    fingerprint: str = "sha256:0123456789abcdef"
    tokenizer_fingerprint: str | None = "sha256:fedcba"
    vocab_size: int = 4096


TARGET = FakeTarget()


def full_profile() -> Profile:
    """The golden profile with unrounded values, as a search creates it."""
    return Profile.build(
        TARGET,
        SkipMask.of(16, attention=[6, 3, 5], mlp=[4, 9, 5]),
        gamma=6,
        tau=0.551249,
        predicted={"speedup": 1.41249, "acceptance_rate": 0.923456, "matchness": 0.9},
        measured={
            "speedup": {"median": 1.3934, "low": 1.35, "high": 1.43},
            "end_to_end": {"median": 1.3712, "low": 1.33, "high": 1.41},
            "acceptance_rate": 0.91,
            "mean_acceptance_length": 3.8,
            "plain_tokens_per_second": 88.03456,
            "tokens_per_second": 12345.678,
            "lossless": "exact",
        },
        search={
            "sampler": "auto",
            "objective": "speed",
            "trials": 400,
            "seconds": 41,
            "seed": 0,
            "prompts": "sha256:fedcba9876543210",
            "breaks_even_after_tokens": 12000,
        },
        environment={
            "skipopt": "0.1.0",
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "dirty": False,
            "python": "3.11.7",
            "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
            "torch": "2.9",
            "transformers": "5.23.0",
            "device": "Some CPU @ 2.50GHz",
            "dtype": "float32",
            "runtime": "eager",
            "threads": 2,
            "memory": {
                "weights": 44_000_000,
                "prepacked_weights": 43_500_000,
                "fused_weights": 29_500_000,
                "cache": 4_700_000,
            },
        },
    )


def failure(text: str) -> ProfileError:
    """The error of reading this text, checked to be one line that names the file, with a hint."""
    with pytest.raises(ProfileError) as caught:
        Profile.parse(text, "p.yaml")
    assert str(caught.value).startswith("p.yaml: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    assert caught.value.hint
    return caught.value


def changed(old: str, new: str) -> str:
    assert GOLDEN_TEXT.count(old) == 1, old
    return GOLDEN_TEXT.replace(old, new)
