"""Draft vocabularies come back from their text; frequent tokens come first."""

from __future__ import annotations

import base64
import random
import zlib

import pytest

from skipopt.draft_vocabulary import DraftVocabulary, most_frequent
from skipopt.errors import UsageError

DAMAGE = "base64|padding|decompress|cut short|ascend"
IDS = [[0], [1], [5, 127, 128, 129, 16383, 16384, 300_000], list(range(0, 9000, 3)), [2**31 - 1]]


@pytest.mark.parametrize("ids", IDS, ids=len)
def test_ids_come_back_from_their_text(ids: list[int]) -> None:
    vocabulary = DraftVocabulary.of(reversed(ids))
    assert vocabulary.ids.tolist() == ids
    assert (len(vocabulary), vocabulary.largest) == (len(ids), ids[-1])
    assert DraftVocabulary.from_text(vocabulary.to_text()) == vocabulary


def test_the_text_of_8192_ids_takes_a_few_kilobytes() -> None:
    ids = random.Random(0).sample(range(49152), 8192)
    assert len(DraftVocabulary.of(ids).to_text()) < 9000


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base64!",
        "QUJD",
        packed(b""),
        packed(b"\x01\x80"),
        packed(b"\x01\x00"),
        packed(b"\xff\xff\xff\xff\xff\x01"),
        DraftVocabulary.of(range(99)).to_text()[:-4],
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=DAMAGE):
        DraftVocabulary.from_text(text)


@pytest.mark.parametrize("changed", [10, 20, -5])
def test_a_changed_character_is_noticed(changed: int) -> None:
    text = list(DraftVocabulary.of(random.Random(1).sample(range(5000), 300)).to_text())
    text[changed] = "A" if text[changed] != "A" else "B"
    with pytest.raises(ValueError, match=DAMAGE):
        DraftVocabulary.from_text("".join(text))


@pytest.mark.parametrize("ids", [[], [-1, 3], [2**31]])
def test_impossible_ids_are_refused(ids: list[int]) -> None:
    with pytest.raises(UsageError, match="token ids of 0 or more"):
        DraftVocabulary.of(ids)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, [7]), (2, [7, 9]), (3, [5, 7, 9]), (4, [5, 7, 8, 9]), (5, [0, 5, 7, 8, 9])],
)
def test_special_tokens_lead_then_frequent_ones_then_small_ids(
    size: int, expected: list[int]
) -> None:
    """Token 12 is not one of the model's ten; neither is the special token 30."""
    texts = [[5, 9, 9, 12], [9, 8, 5]]
    assert most_frequent(texts, size, 10, always=(7, 30)).ids.tolist() == expected
