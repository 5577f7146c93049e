"""What a memory of earlier texts costs: time of a lookup, bytes, and time to make, save and load.

    python -m benchmarks.draft_memory --tokens 1000000 --output results/draft-memory

Texts are files of the standard library in tokens of the built-in model. Lookups are those of a
text that is not in the memory, at places of a growing context. The time of a continuation
without a memory is that of copies from the text alone, so the difference is the price of a memory.
"""

from __future__ import annotations

import argparse
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import skipopt
from benchmarks.result_files import log, page_head, write_results
from skipopt.draft_memory.memory import DraftMemory
from skipopt.drafting.suffix import SuffixDrafter
from skipopt.measurement.provenance import environment_of

CONTEXT = 1500  # tokens of the text before its first lookup
STEP = 3  # tokens from one lookup to the next
GAMMA = 16
LONGEST_TEXT = 4000
REPEATS = 5  # of each lookup; the fastest counts


def library_texts(tokenizer: Any) -> Iterator[list[int]]:
    """Files of the standard library as tokens, the largest first, cut at `LONGEST_TEXT`."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = [path for path in folder.rglob("*.py") if "site-packages" not in path.parts]
    for path in sorted(files, key=lambda path: (-path.stat().st_size, path.name)):
        tokens = tokenizer(path.read_text(encoding="utf-8", errors="replace"))["input_ids"]
        yield from (
            tokens[i : i + LONGEST_TEXT] for i in range(0, len(tokens) - 100, LONGEST_TEXT)
        )


def filled(texts: Sequence[list[int]], tokens: int) -> DraftMemory:
    """A full memory of so many tokens."""
    memory = DraftMemory(tokens)
    for text in texts:
        memory.add(text)
        if memory.num_tokens + LONGEST_TEXT > tokens:
            break
    memory.add(texts[-1][: tokens - memory.num_tokens])
    return memory


def lookups(text: Sequence[int], memory: DraftMemory | None, count: int) -> dict[str, float]:
    """Median microseconds of a continuation, and of the lookup in the memory alone."""
    whole: list[float] = []
    alone: list[float] = []
    drafter = SuffixDrafter(GAMMA, memory=memory)
    for end in range(CONTEXT, CONTEXT + STEP * count, STEP):
        context = list(text[:end])
        drafter.index(context)
        whole.append(fastest(lambda context=context: drafter.continuation(context, GAMMA)))  # type: ignore[misc]
        if memory is not None:
            alone.append(fastest(lambda context=context: memory.matches(context, GAMMA)))  # type: ignore[misc]
    return average("continuation", whole) | average("lookup", alone)


def average(name: str, microseconds: Sequence[float]) -> dict[str, float]:
    """Median and mean; nothing of nothing."""
    if not microseconds:
        return {}
    mean = sum(microseconds) / len(microseconds)
    return {name: median(microseconds), f"{name}_mean": mean}


def fastest(work: Callable[[], object]) -> float:
    """Microseconds of the fastest repeat."""
    return 1e6 * min(seconds_of(work) for _ in range(REPEATS))


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of a single call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_size(texts: Sequence[list[int]], tokens: int) -> dict[str, float]:
    """Bytes of a token, and seconds to add the texts one by one, save and load them."""
    began = time.perf_counter()
    memory = filled(texts, tokens)
    build = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "memory"
        save = seconds_of(lambda: memory.save(file))
        load = seconds_of(lambda: DraftMemory.load(file, tokens))
        loaded = DraftMemory.load(file, tokens)
        size = file.stat().st_size
    return {
        "texts": memory.num_texts,
        "ram_bytes_per_token": memory.bytes / memory.num_tokens,
        "loaded_ram_bytes_per_token": loaded.bytes / loaded.num_tokens,
        "file_bytes_per_token": size / memory.num_tokens,
        "build_seconds": build,
        "save_seconds": save,
        "load_seconds": load,
    }


def turnover(texts: Sequence[list[int]], tokens: int) -> dict[str, float]:
    """Seconds to add a text to a full memory, which drops others for it."""
    memory = filled(texts, tokens)
    seconds = [seconds_of(lambda text=text[::-1]: memory.add(text)) for text in texts]  # type: ignore[misc]
    return {"add_seconds": sum(seconds) / len(seconds), "longest_add_seconds": max(seconds)}


def page(record: dict[str, Any]) -> list[str]:
    lines = [
        *page_head("Memory of earlier texts", record),
        "",
        "| tokens in memory | continuation, µs (mean) | lookup in the memory, µs (mean) |",
        "|--:|--:|--:|",
    ]
    for each in record["lookups"]:
        lookup = f"{each['lookup']:.1f} ({each['lookup_mean']:.1f})" if "lookup" in each else "–"
        whole = f"{each['continuation']:.1f} ({each['continuation_mean']:.1f})"
        lines.append(f"| {each['tokens']:,} | {whole} | {lookup} |")
    lines += ["", "| | |", "|---|--:|"]
    lines += [
        f"| {key.replace('_', ' ')} | {value:.3g} |" for key, value in record["size"].items()
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of the largest memory")
    parser.add_argument("--lookups", type=int, default=300)
    parser.add_argument("--output", type=Path, help="prefix of the result files")
    given = parser.parse_args()
    target = skipopt.load("builtin")
    texts: list[list[int]] = []
    for text in library_texts(target.tokenizer):
        texts.append(text)
        if sum(map(len, islice(texts, 1, None))) > given.tokens + 2 * LONGEST_TEXT:
            break
    text, *others = texts
    log(f"{len(others)} texts of {sum(map(len, others))} tokens")
    sizes = [size for size in (10_000, 100_000, 1_000_000) if size <= given.tokens]
    measured = [{"tokens": 0, **lookups(text, None, given.lookups)}]
    for size in sizes:
        memory = filled(others, size)
        log(f"{memory}")
        measured.append({"tokens": size, **lookups(text, memory, given.lookups)})
    record = {
        "command": f"python -m benchmarks.draft_memory --tokens {given.tokens}",
        "environment": environment_of(target),
        "lookups": measured,
        "size": measure_size(others, given.tokens) | turnover(others[:100], given.tokens),
    }
    if given.output is None:
        print("\n".join(page(record)))
    else:
        write_results(given.output, record, page(record))


if __name__ == "__main__":
    main()
