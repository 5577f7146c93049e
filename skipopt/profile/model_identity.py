"""What a profile records of a model, and what it checks of another one."""

from __future__ import annotations

from typing import Any, Protocol

from skipopt.errors import ProfileError
from skipopt.profile.parsing import SEARCH_AGAIN
from skipopt.profile.sections import VocabSection


class ModelIdentity(Protocol):
    """What a profile records of a model, to recognize it."""

    @property
    def model_id(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def architecture(self) -> str: ...
    @property
    def depth(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def tokenizer_fingerprint(self) -> str | None: ...
    @property
    def vocab_size(self) -> int: ...


def check_vocabulary(vocab: VocabSection, key: str, target: ModelIdentity) -> None:
    """Do nothing if the ids are those of the model's tokenizer.

    Raises:
        ProfileError: another tokenizer, or an id that the model does not have; names the key.
    """
    tokenizer = target.tokenizer_fingerprint
    if None not in (tokenizer, vocab.tokenizer) and tokenizer != vocab.tokenizer:
        raise ProfileError(
            f"the profile's draft vocabulary is for another tokenizer: {key}.tokenizer is "
            f"{vocab.tokenizer}, this model's is {tokenizer}",
            hint=SEARCH_AGAIN,
        )
    largest = vocab.vocabulary.largest
    if largest >= target.vocab_size:
        raise ProfileError(
            f"{key}.ids has the token {largest}, but the model has {target.vocab_size} tokens",
            hint=SEARCH_AGAIN,
        )


def model_facts(target: ModelIdentity) -> dict[str, Any]:
    """The `model` section of a profile and of every other result."""
    return {
        "id": target.model_id,
        "revision": target.revision,
        "architecture": target.architecture,
        "layers": target.depth,
        "fingerprint": target.fingerprint,
    }
