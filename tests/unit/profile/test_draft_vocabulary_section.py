"""A profile's draft vocabulary comes back from its file; another tokenizer's is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.profiles import TARGET, failure

from skipopt.draft_config import DraftConfig
from skipopt.draft_vocabulary import DraftVocabulary
from skipopt.errors import ProfileError
from skipopt.masks import SkipMask
from skipopt.profile import Profile

VOCABULARY = DraftVocabulary.of(range(3, 999, 7))
CONFIG = DraftConfig(8, 64, 4, vocab_size=len(VOCABULARY), vocabulary=VOCABULARY)


def profile_of(config: DraftConfig = CONFIG, **given: Any) -> Profile:
    mask = SkipMask.of(16, [3])
    return Profile.build(TARGET, mask, gamma=2, tau=0, draft_config=config, **given)


@pytest.mark.parametrize("method", ["layer-skip", "prompt-lookup"])
def test_a_vocabulary_comes_back_equal(method: str) -> None:
    """As the method's drafting or as a candidate's."""
    profile = profile_of(method=method)
    text = profile.to_yaml()
    assert Profile.parse(text, "p.yaml") == profile
    assert Profile.parse(text, "p.yaml").draft_config == CONFIG
    assert f"vocab: {{size: {len(VOCABULARY)}, tokenizer: '{TARGET.tokenizer_fingerprint}'" in text
    profile.check_model(TARGET)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("size: 143", "size: 144", "drafting.vocab.ids is 'eN"),
        ("size: 143", "size: 144", "expected 144 token ids, not 143"),
        ("size: 143", "size: 0", "drafting.vocab.size is 0"),
        ("size: 143, ", "", "drafting.vocab.size is missing"),
        ("ids: ", "ids: x", "drafting.vocab.ids is 'xeN"),
        ("ids: ", "tokens: ", "drafting.vocab.tokens is 'eN"),
        ("'sha256:fedcba'", "md5", "drafting.vocab.tokenizer is 'md5'"),
    ],
)
def test_wrong_vocabularies_are_refused_by_key(old: str, new: str, words: str) -> None:
    text = profile_of().to_yaml()
    assert old in text
    assert words in str(failure(text.replace(old, new)))


def test_other_methods_have_no_vocabulary() -> None:
    config = DraftConfig(vocab_size=len(VOCABULARY), vocabulary=VOCABULARY)
    text = profile_of(config).to_yaml().replace("layer-skip", "rsd-c:exit_layer=1")
    assert "drafting.vocab is {'ids': 'eN" in str(failure(text))


@pytest.mark.parametrize(
    ("method", "change", "words"),
    [
        ("layer-skip", {"tokenizer_fingerprint": "sha256:1"}, "drafting.vocab.tokenizer is sha2"),
        ("prompt-lookup", {"tokenizer_fingerprint": "sha256:1"}, "candidate.vocab.tokenizer is"),
        ("layer-skip", {"vocab_size": 500}, "drafting.vocab.ids has the token 997, but the model"),
    ],
)
def test_a_vocabulary_of_another_tokenizer_is_refused(
    method: str, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ProfileError, match=words) as caught:
        profile_of(method=method).check_model(replace(TARGET, **change))
    assert caught.value.hint is not None


def test_a_model_without_tokenizer_takes_any_vocabulary() -> None:
    profile_of().check_model(replace(TARGET, tokenizer_fingerprint=None))
