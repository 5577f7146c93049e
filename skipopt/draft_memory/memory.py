"""A memory of earlier texts that drafts are copied from, in a process and in a file."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from skipopt.draft_memory.suffix_index import BORDER, SuffixIndex
from skipopt.errors import UsageError

if TYPE_CHECKING:
    from skipopt.draft_memory.memory_file import StoredTexts
    from skipopt.models.target import Target

SIZES = (4, 2)  # of the n-grams; a single token says too little about other texts
MAX_MATCHES = 8  # the latest occurrences that vote
MAX_TEXTS = 10_000
SHORTEST_TEXT = SIZES[-1] + 1  # a shorter one has nothing to copy
ERASED_PER_KEPT = 4  # the index is made anew when it holds more than a quarter of erased tokens
_BORDERS = array("i", [BORDER])


@dataclass(slots=True)
class _Text:
    """Where a text stands in the index.

    Attributes:
        is_recent: it was added or used since the memory was made or loaded.
    """

    start: int
    length: int
    is_recent: bool


class DraftMemory:
    """Earlier texts, as tokens; drafters copy what followed the same tokens there.

    When it is full, the least recently used texts are dropped. A text is used when it is added
    and when a draft is copied from it. A text that continues an earlier one, such as the next turn
    of a chat, takes its place; one that is the beginning of an earlier one, or the same, only
    counts as a use of that. Several threads may use a memory at once. Texts of one memory must
    have one tokenizer.

    Args:
        max_tokens: most tokens of all texts together; of a longer text the last ones are kept.
            A token takes about 25 bytes. There are at most `MAX_TEXTS` texts.
        tokenizer: the fingerprint of the texts' tokenizer (`Target.tokenizer_fingerprint`; of
            the model, where it has none), which stands in the file. None: that of the first
            target it is used with.

    Raises:
        UsageError: max_tokens is below 1.
    """

    def __init__(self, max_tokens: int = 1_000_000, tokenizer: str | None = None) -> None:
        if max_tokens < 1:
            raise UsageError(f"max_tokens must be 1 or more, not {max_tokens}")
        self.max_tokens = max_tokens
        self.tokenizer = tokenizer
        self._largest = -1  # of all tokens that were added
        self._lock = Lock()
        self._texts: OrderedDict[int, _Text] = OrderedDict()  # by number, the latest use last
        self._start_empty()

    def _start_empty(self) -> None:
        self._index = SuffixIndex(SIZES, MAX_MATCHES)
        self._starts: list[int] = []  # of all texts in the index, ascending
        self._numbers: list[int] = []  # theirs; those of dropped texts are no longer in `_texts`
        self._num_tokens = 0

    def __repr__(self) -> str:
        return (
            f"DraftMemory({self.num_texts} texts, {self.num_tokens} of {self.max_tokens} tokens)"
        )

    def __len__(self) -> int:
        """Number of texts."""
        return len(self._texts)

    @property
    def num_texts(self) -> int:
        return len(self._texts)

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts together."""
        return self._num_tokens

    @property
    def bytes(self) -> int:
        """Bytes of the index."""
        return self._index.bytes

    def check_target(self, target: Target) -> None:
        """Check that the texts may be drafts of a target, and keep to its tokenizer from now on.

        Raises:
            UsageError: they have another tokenizer, or tokens that the model does not have.
        """
        expected = target.tokenizer_fingerprint or target.fingerprint
        with self._lock:
            self.tokenizer = self.tokenizer or expected
            fits = self.tokenizer == expected and self._largest < target.vocab_size
        if not fits:
            raise UsageError(
                "the texts of the memory have another tokenizer than the model",
                hint="use one memory for each tokenizer",
            )

    def add(self, tokens: Sequence[int]) -> None:
        """Remember a text; one of less than three tokens has nothing to copy.

        Raises:
            UsageError: a token below 0.
        """
        text = array("i", tokens[-self.max_tokens :])
        if len(text) < SHORTEST_TEXT:
            return
        if min(text) < 0:
            raise UsageError(f"tokens must be 0 or more, not {min(text)}")
        with self._lock:
            if not self._holds(text):
                self._append([text], is_recent=True)
                self._make_room()

    def matches(self, context: Sequence[int], most: int) -> list[tuple[int, list[int], int]]:
        """(length, tokens, place) of the latest occurrences of the last tokens, the latest first.

        The length is that of the match, the tokens are what followed it in its text, and the place
        is for `use`. See `SuffixIndex.matches`.

        Args:
            most: tokens that follow each.
        """
        with self._lock:
            index = self._index
            return [
                (length, _until_border(index.slice(end, end + most)), end)
                for end, length in index.matches(context)
            ]

    def use(self, place: int) -> None:
        """The text of an occurrence becomes the most recently used one.

        Another one does if texts were moved since the occurrence was found, which changes nothing
        but the order in which texts are dropped.
        """
        with self._lock:
            number = self._numbers[bisect_right(self._starts, place) - 1] if self._starts else -1
            if number in self._texts:
                self._use(number)

    def recent_texts(self) -> list[array[int]]:
        """The texts added or used since it was made or loaded, the latest use last."""
        with self._lock:
            return [self._tokens(text) for text in self._texts.values() if text.is_recent]

    def texts(self) -> list[array[int]]:
        """All texts, the latest use last."""
        with self._lock:
            return [self._tokens(text) for text in self._texts.values()]

    def save(self, path: str | Path) -> None:
        """Write all texts to a file, whole or not at all, that only its owner may read.

        Raises:
            OutputError: it cannot be written.
        """
        from skipopt.draft_memory.memory_file import write_texts

        write_texts(Path(path), self.tokenizer, self.texts())

    @classmethod
    def load(
        cls, path: str | Path, max_tokens: int = 1_000_000, tokenizer: str | None = None
    ) -> DraftMemory:
        """Read a file that `save` wrote.

        Args:
            max_tokens: as of a new memory; of more tokens in the file the latest used are kept.
            tokenizer: fingerprint of the tokenizer that the texts must have; None: any.

        Raises:
            MemoryFileError: there is no such file, it is none of a memory or is damaged, or its
                texts have another tokenizer.
        """
        from skipopt.draft_memory.memory_file import other_tokenizer, read_texts

        stored = read_texts(Path(path))
        if tokenizer not in (None, stored.tokenizer):
            raise other_tokenizer(Path(path))
        made = cls(max_tokens, stored.tokenizer)
        made._fill(stored)
        return made

    def _fill(self, stored: StoredTexts) -> None:
        with self._lock:
            texts = [text[-self.max_tokens :] for text in stored.texts]
            self._append(texts, is_recent=False)
            self._make_room()

    def _append(self, texts: Sequence[array[int]], is_recent: bool) -> None:
        """Add texts at the end of the index, at once."""
        joined = array("i")
        self._largest = max((self._largest, *map(max, texts)))
        first, number = len(self._index), self._numbers[-1] + 1 if self._numbers else 0
        for i, text in enumerate(texts):
            start = first + len(joined)
            self._texts[number + i] = _Text(start, len(text), is_recent)
            self._starts.append(start)
            self._numbers.append(number + i)
            joined += text
            joined += _BORDERS
        self._num_tokens += len(joined) - len(texts)
        self._index.extend(joined)

    def _holds(self, text: array[int]) -> bool:
        """Whether an earlier text begins with this one and is used; beginnings are dropped."""
        for number, known in list(self._texts.items()):
            shared = min(known.length, len(text))
            if self._index.slice(known.start, known.start + shared) != text[:shared]:
                continue
            if known.length >= len(text):
                self._use(number)
                return True
            self._drop(number)
        return False

    def _use(self, number: int) -> None:
        self._texts[number].is_recent = True
        self._texts.move_to_end(number)

    def _drop(self, number: int) -> None:
        text = self._texts.pop(number)
        self._index.erase(text.start, text.start + text.length)
        self._num_tokens -= text.length

    def _make_room(self) -> None:
        """Drop the least recently used texts, and at times make the index anew without them."""
        while self._num_tokens > self.max_tokens or len(self._texts) > MAX_TEXTS:
            self._drop(next(iter(self._texts)))
        kept = self._num_tokens + len(self._texts)
        if (len(self._index) - kept) * ERASED_PER_KEPT > kept:
            self._make_index_anew()

    def _make_index_anew(self) -> None:
        texts = [(self._tokens(text), text.is_recent) for text in self._texts.values()]
        self._texts.clear()
        self._start_empty()
        self._append([tokens for tokens, _ in texts], is_recent=False)
        for text, (_, is_recent) in zip(self._texts.values(), texts, strict=True):
            text.is_recent = is_recent

    def _tokens(self, text: _Text) -> array[int]:
        return self._index.slice(text.start, text.start + text.length)


def _until_border(tokens: array[int]) -> list[int]:
    found = tokens.tolist()
    return found[: found.index(BORDER)] if BORDER in found else found
