"""The part of the vocabulary that a draft chooses its tokens from.

A draft then computes the output projection for these tokens only, as in FR-Spec (arXiv
2502.14856). Verification uses all of them, so the text does not change.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

LARGEST_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class DraftVocabulary:
    """Token ids, ascending, each once.

    Attributes:
        packed: the ids as little-endian int32, so that comparing and hashing take little time.
    """

    packed: bytes

    @classmethod
    def of(cls, ids: Iterable[int]) -> DraftVocabulary:
        """From ids in any order; repetitions are dropped.

        Raises:
            UsageError: no id, or one below 0 or above 2³¹ − 1.
        """
        import numpy as np

        found = np.unique(np.fromiter(ids, np.int64))
        if not len(found) or found[0] < 0 or found[-1] > LARGEST_ID:
            raise UsageError("a draft vocabulary needs token ids of 0 or more")
        return cls(found.astype("<i4").tobytes())

    def __len__(self) -> int:
        return len(self.packed) // 4

    @property
    def ids(self) -> np.ndarray:
        """The token ids.  # (N,) int64"""
        import numpy as np

        return np.frombuffer(self.packed, "<i4").astype(np.int64)

    @property
    def largest(self) -> int:
        """The largest id."""
        return int.from_bytes(self.packed[-4:], "little")

    def to_text(self) -> str:
        """The differences of successive ids as base-128 numbers, compressed, in base64."""
        return base64.b64encode(zlib.compress(_varints(_differences(self.ids)), 9)).decode()

    @classmethod
    def from_text(cls, text: str) -> DraftVocabulary:
        """What `to_text` wrote.

        Raises:
            ValueError: anything else; the checksum of the compressed data is compared.
        """
        import numpy as np

        try:
            differences = _read_varints(zlib.decompress(base64.b64decode(text, validate=True)))
        except (binascii.Error, zlib.error) as error:
            raise ValueError(str(error)) from None
        ids = np.cumsum(differences) - 1
        if not len(ids) or min(differences) < 1 or ids[-1] > LARGEST_ID:
            raise ValueError("the ids do not ascend")
        return cls(ids.astype("<i4").tobytes())


def most_frequent(
    texts: Iterable[Sequence[int]], size: int, total: int, always: Sequence[int] = ()
) -> DraftVocabulary:
    """A vocabulary of `size` tokens out of `total`.

    It has the tokens in `always`, then those of the texts by their number of occurrences, then the
    smallest ids: byte-pair encodings number tokens in the order of their merges, so these are
    frequent tokens. Equally frequent tokens are taken in the order of their ids.

    Args:
        texts: token ids.
        total: ids from here on are left out.
    """
    import numpy as np

    counts = np.zeros(total, np.int64)
    for text in texts:
        ids = np.asarray(text, np.int64)
        counts += np.bincount(ids[ids < total], minlength=total)
    first = dict.fromkeys(token for token in always if 0 <= token < total)
    counts[list(first)] = np.iinfo(np.int64).max
    order = np.argsort(-counts, kind="stable")
    return DraftVocabulary.of(order[:size].tolist())


def _differences(ids: np.ndarray) -> list[int]:
    """From each id to the next, the first from −1."""
    import numpy as np

    found: list[int] = np.diff(ids, prepend=-1).tolist()
    return found


def _varints(numbers: Sequence[int]) -> bytes:
    """Seven bits in each byte, the lowest first; the highest bit says that more follow."""
    out = bytearray()
    for number in numbers:
        while number >= 128:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    return bytes(out)


def _read_varints(data: bytes) -> list[int]:
    """Raises ValueError for data that ends within a number."""
    numbers, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(value)
            value = shift = 0
    if shift:
        raise ValueError("the ids are cut short")
    return numbers
