"""Where the last tokens of a text occurred before, by chains of equal n-grams (as in LZ77)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SIZES = (4, 2, 1)  # of the n-grams, the longest first
MAX_MATCH = 24  # longer matches count as this
MAX_MATCHES = 16  # the latest occurrences that are returned, by default
MAX_VISITS = 64  # positions of the same hash that are compared with the last tokens
BORDER = -1  # no match and no n-gram runs over it
FIRST_SLOTS = 1024  # a power of two, as all numbers of slots
MAX_LOAD = 2  # positions for each slot
VECTORIZED = 64  # so many new tokens are faster to add by numpy

_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)  # odd, for each 64 bits of an n-gram
_MASK = (1 << 64) - 1
_TOKEN_BITS = 32
_MATCH_BITS = MAX_MATCH * _TOKEN_BITS


class SuffixIndex:
    """Finds earlier occurrences of the last tokens of a growing text, or of another one.

    An n-gram is found by its hash, and what is found is compared with the last tokens: all
    `MAX_MATCH` of them at once, as one number. A position takes 8 bytes for each size and 4 for
    its token, or somewhat more while the arrays grow.

    Args:
        sizes: of the n-grams, the longest first; at most 4.
        max_matches: most occurrences that are returned.
    """

    def __init__(self, sizes: Sequence[int] = SIZES, max_matches: int = MAX_MATCHES) -> None:
        self._max_matches = max_matches
        self._tokens = array("i", [BORDER]) * MAX_MATCH  # before the text, so that slices are full
        self._longest = sizes[0]
        self._chains = [_Chain(size) for size in sizes]
        self._resize(FIRST_SLOTS)

    def __len__(self) -> int:
        """Number of indexed tokens, borders included."""
        return len(self._tokens) - MAX_MATCH

    @property
    def bytes(self) -> int:
        """Bytes of its arrays."""
        arrays = [self._tokens]
        for chain in self._chains:
            arrays += [chain.latest, chain.before]
        return sum(each.__sizeof__() for each in arrays)

    def index(self, tokens: Sequence[int]) -> None:
        """Add what is new in the text.

        Args:
            tokens: the tokens of the previous call, and any number after them.
        """
        self.extend(array("i", tokens[len(self) :]))

    def extend(self, tokens: array[int]) -> None:
        """Add tokens, or borders (`BORDER`), at the end."""
        first = len(self)
        self._tokens.extend(tokens)
        if len(self) > MAX_LOAD * self._slots:
            self._resize(1 << (len(self) - 1).bit_length())
            first = 0
        start = first + MAX_MATCH - self._longest
        at_once = len(self) - first >= VECTORIZED or BORDER in self._tokens[start:]
        (self._add_all if at_once else self._add_each)(first)

    def slice(self, start: int, end: int) -> array[int]:
        """The tokens from one position up to another, which is not included."""
        return self._tokens[start + MAX_MATCH : end + MAX_MATCH]

    def erase(self, start: int, end: int) -> None:
        """Put borders in place of tokens; their positions stay."""
        borders = array("i", [BORDER]) * (end - start)
        self._tokens[start + MAX_MATCH : end + MAX_MATCH] = borders

    def matches(self, context: Sequence[int]) -> list[tuple[int, int]]:
        """(end, length) of the latest occurrences of the last tokens, the latest first.

        The end is the position of the token that followed, the length is that of the match, at
        most `MAX_MATCH`. All of them match the longest of the sizes that has occurred. At most
        `max_matches` are returned, of the `MAX_VISITS` latest of the same hash.

        Args:
            context: the indexed tokens, and any number after them; or those of another text.
        """
        last = array("i", context[-MAX_MATCH:])
        number = _number(last) << (MAX_MATCH - len(last)) * _TOKEN_BITS
        for chain in self._chains:
            if chain.size <= len(last) and (found := self._matches(chain, last, number)):
                return found
        return []

    def _resize(self, slots: int) -> None:
        """Empty chains with so many slots."""
        self._slots, self._shift = slots, 65 - slots.bit_length()
        for chain in self._chains:
            chain.latest, chain.before = _empty(slots), _empty(0)

    def _add_each(self, first: int) -> None:
        """Add the positions from `first` on, one after another."""
        tokens, size = self._tokens, self._longest
        stops = range(first + MAX_MATCH, len(tokens))
        numbers = [_number(tokens[stop - size : stop]) for stop in stops]
        for chain in self._chains:
            skipped = _TOKEN_BITS * (size - chain.size)
            chain.add_each((number >> skipped for number in numbers), first, self._shift)

    def _add_all(self, first: int) -> None:
        """The same at once, and without positions beside borders."""
        import numpy as np

        for chain in self._chains:
            chain.add_all(np.frombuffer(self._tokens, "<u4"), first, self._shift)

    def _matches(self, chain: _Chain, last: array[int], number: int) -> list[tuple[int, int]]:
        tokens, before, shortest = self._tokens, chain.before, chain.size
        number_of, most = int.from_bytes, self._max_matches
        found: list[tuple[int, int]] = []
        end = chain.latest[_slot(number >> _TOKEN_BITS * (MAX_MATCH - shortest), self._shift)]
        for _ in range(MAX_VISITS):
            if end < 0 or len(found) == most:
                break
            # The last tokens stand in the highest bits, so the first that differs is the highest.
            window = number_of(tokens[end : end + MAX_MATCH].tobytes(), "little")
            length = (_MATCH_BITS - (number ^ window).bit_length()) // _TOKEN_BITS
            if length >= shortest:
                found.append((end, length))
            end = before[end]
        if len(last) < MAX_MATCH:  # zeros stand before it, as token 0 may in the text
            return [(end, min(length, len(last))) for end, length in found]
        return found


class _Chain:
    """For each n-gram of one size, the positions after its occurrences.

    Attributes:
        size: tokens of an n-gram.
        latest: by hash, the latest position; −1 for none.
        before: for each position, the one before of the same hash; −1 for none.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.latest = self.before = _empty(0)

    def add_each(self, grams: Iterable[int], first: int, shift: int) -> None:
        """Add the positions after n-grams, as numbers, of which the first ends at `first`."""
        latest, before = self.latest, self.before
        for end, gram in enumerate(grams, first):
            slot = _slot(gram, shift)
            before.append(latest[slot])
            latest[slot] = end

    def add_all(self, padded: np.ndarray, first: int, shift: int) -> None:
        """Add all positions from `first` on, without those beside borders.

        Args:
            padded: `MAX_MATCH` borders, and the text.
        """
        import numpy as np

        ends, slots = self._ends_and_slots(padded, first, shift)
        # By slot, and within each by position.
        keys = np.sort((slots << np.uint64(32)) | ends.astype(np.uint64))
        ends, slots = (keys & np.uint64(0xFFFFFFFF)).astype(np.int32), keys >> np.uint64(32)
        is_first = np.diff(slots, prepend=np.uint64(_MASK)) != 0
        latest = np.frombuffer(self.latest, np.int32)
        before = np.full(len(padded) - MAX_MATCH - first, -1, np.int32)
        before[ends - first] = np.where(is_first, latest[slots], np.roll(ends, 1))
        is_last = np.roll(is_first, -1)
        latest[slots[is_last]] = ends[is_last]
        self.before.frombytes(before.tobytes())

    def _ends_and_slots(
        self, padded: np.ndarray, first: int, shift: int
    ) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        start, stop = first + MAX_MATCH, len(padded)
        border = np.uint32(BORDER % (1 << _TOKEN_BITS))
        valid = padded[start:] != border
        hashes = np.zeros(stop - start, np.uint64)
        for i in range(self.size):
            tokens = padded[start - self.size + i : stop - self.size + i]
            valid &= tokens != border
            shifted = tokens.astype(np.uint64) << np.uint64(_TOKEN_BITS * (i % 2))
            hashes += shifted * np.uint64(_MULTIPLIERS[i // 2])
        return np.flatnonzero(valid) + first, hashes[valid] >> np.uint64(shift)


def _slot(gram: int, shift: int) -> int:
    """The slot of an n-gram: the number of its tokens' bytes, the first token lowest.

    Args:
        shift: leaves as many of the 64 bits of a hash as the number of a slot has.
    """
    low, high = _MULTIPLIERS
    return ((gram & _MASK) * low + (gram >> 64) * high & _MASK) >> shift


def _number(tokens: array[int]) -> int:
    """Their bytes as one number, the first token lowest."""
    return int.from_bytes(tokens.tobytes(), "little")  # slow from the array itself


def _empty(slots: int) -> array[int]:
    return array("i", [-1]) * slots
