"""A memory of earlier texts: what it finds, what it drops, and its file."""

from __future__ import annotations

import random
import stat
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest

from skipopt.draft_memory import memory as draft_memory
from skipopt.draft_memory.memory import MAX_MATCHES, DraftMemory
from skipopt.draft_memory.suffix_index import MAX_MATCH
from skipopt.errors import MemoryFileError, OutputError, UsageError

Found = list[tuple[int, list[int]]]


def memory_of(*texts: list[int], max_tokens: int = 1000) -> DraftMemory:
    made = DraftMemory(max_tokens)
    for text in texts:
        made.add(text)
    return made


def kept(memory: DraftMemory) -> list[list[int]]:
    return [list(text) for text in memory.texts()]


def found(memory: DraftMemory, context: list[int], most: int = 4) -> Found:
    return [(length, tokens) for length, tokens, _ in memory.matches(context, most)]


def occurrences(texts: list[list[int]], context: list[int], most: int) -> Found:
    """All matches of the last four tokens, else of the last two, by comparing everything."""
    for size in draft_memory.SIZES:
        matches = [
            (length, text[end : end + most])
            for text in texts
            for end in range(size, len(text))
            if (length := common(text[:end], context)) >= size
        ]
        if matches:
            return matches
    return []


def common(one: list[int], other: list[int]) -> int:
    """The length of the common end."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    length = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    return min(length, MAX_MATCH)


@pytest.mark.parametrize("kinds", [3, 8, 40])
def test_matches_are_all_that_a_comparison_finds_also_after_texts_were_dropped(kinds: int) -> None:
    generator = random.Random(kinds)
    memory = DraftMemory(max_tokens=120)
    for _ in range(300):
        text = [generator.randrange(kinds) for _ in range(generator.randrange(1, 30))]
        memory.add(text)
        context = [*text[: generator.randrange(6)], generator.randrange(kinds)]
        expected = occurrences(kept(memory), context, 5)
        got = found(memory, context, 5)
        assert len(got) == min(len(expected), MAX_MATCHES)
        assert all(each in expected for each in got)
        if len(expected) <= MAX_MATCHES:
            assert sorted(got) == sorted(expected)


def test_no_match_and_no_continuation_runs_over_the_border_of_two_texts() -> None:
    memory = memory_of([1, 2, 3, 4], [5, 6, 7, 8])
    assert found(memory, [3, 4]) == []
    assert found(memory, [4, 5]) == []
    assert found(memory, [2, 3]) == [(2, [4])]
    assert found(memory, [4, 5, 6]) == [(2, [7, 8])]
    assert found(memory, [0, 0, 1, 2]) == [(2, [3, 4])]


def test_the_least_recently_used_text_is_dropped() -> None:
    first, second, third = [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]
    memory = memory_of(first, second, max_tokens=10)
    [(_, _, place)] = memory.matches([1, 2], 4)
    memory.use(place)
    memory.add(third)
    assert kept(memory) == [first, third]
    assert found(memory, [5, 6]) == []
    assert (memory.num_texts, memory.num_tokens) == (2, 8)


def test_of_a_long_text_the_last_tokens_are_kept() -> None:
    assert kept(memory_of(list(range(20)), max_tokens=5)) == [[15, 16, 17, 18, 19]]
    assert kept(memory_of([1, 2])) == []


def test_the_same_text_again_only_counts_as_used() -> None:
    first, second = [1, 2, 3, 4], [5, 6, 7, 8]
    memory = memory_of(first, second, first, first[:3])
    assert kept(memory) == [second, first]


def test_a_text_takes_the_place_of_its_beginnings() -> None:
    memory = memory_of([1, 2, 3], [1, 2, 4], [1, 2, 3, 4, 5])
    assert kept(memory) == [[1, 2, 4], [1, 2, 3, 4, 5]]


def test_the_number_of_texts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_memory, "MAX_TEXTS", 3)
    memory = memory_of(*([i, i + 1, i + 2] for i in range(10)))
    assert kept(memory) == [[7, 8, 9], [8, 9, 10], [9, 10, 11]]


def test_dropped_texts_leave_no_bytes_behind() -> None:
    memory = DraftMemory(max_tokens=2000)
    sizes = []
    for i in range(100):
        memory.add(list(range(i, i + 500)))
        sizes.append(memory.bytes)
    assert max(sizes[20:]) <= 2 * sizes[5]


def test_a_memory_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, generator = tmp_path / "memory", random.Random(2)
    texts = [[generator.randrange(20) for _ in range(n)] for n in (90, 4, 33)]
    memory = memory_of(*texts)
    memory.tokenizer = "sha256:1"
    memory.save(path)
    loaded = DraftMemory.load(path, tokenizer="sha256:1")
    assert (kept(loaded), loaded.tokenizer) == (kept(memory), "sha256:1")
    assert loaded.recent_texts() == []
    for end in range(4, 90):
        assert found(loaded, texts[0][:end]) == found(memory, texts[0][:end])
    assert kept(DraftMemory.load(path, max_tokens=40)) == [texts[1], texts[2]]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    DraftMemory().save(path)
    assert len(DraftMemory.load(path)) == 0


@pytest.mark.parametrize(
    "damage", ["cut", "byte", "head", "foreign", "version", "empty", "nested"]
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "memory"
    memory_of([1, 2, 3, 4]).save(path)
    good = path.read_bytes()
    path.write_bytes(
        {
            "cut": good[:-3],
            "byte": good[:-1] + b"\x01",
            "head": good.replace(b'"lengths"', b'"lengthz"'),
            "foreign": b"model: builtin\n",
            "version": good.replace(b"memory 1", b"memory 9"),
            "empty": b"",
            "nested": good.replace(b"{", b"[" * 100_000 + b"{"),
        }[damage]
    )
    with pytest.raises(MemoryFileError, match="memory"):
        DraftMemory.load(path)


def test_other_tokenizers_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    memory_of([1, 2, 3, 4]).save(path)
    with pytest.raises(MemoryFileError, match="tokenizer"):
        DraftMemory.load(path, tokenizer="sha256:2")
    with pytest.raises(MemoryFileError):
        DraftMemory.load(tmp_path / "missing")
    with pytest.raises(MemoryFileError):
        DraftMemory.load(tmp_path)
    with pytest.raises(OutputError):
        memory_of([1, 2, 3]).save(tmp_path / "no" / "folder")
    with pytest.raises(UsageError):
        DraftMemory(0)
    with pytest.raises(UsageError):
        memory_of([1, -2, 3])


def test_threads_may_add_and_look_up_at_once() -> None:
    memory = DraftMemory(max_tokens=300)

    def work(seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(150):
            text = [generator.randrange(5) for _ in range(20)]
            memory.add(text)
            for _, tokens, place in memory.matches(text[:9], 5):
                assert all(0 <= token < 5 for token in tokens)
                memory.use(place)

    threads = [Thread(target=work, args=(seed,)) for seed in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert memory.num_tokens == sum(map(len, memory.texts())) <= 300
    assert all(a != b for a, b in pairwise(sorted(kept(memory))))
