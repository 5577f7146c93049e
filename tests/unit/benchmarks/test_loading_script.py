"""Seconds and memory of loading, and the page that shows them."""

from __future__ import annotations

import mmap
import sys
from dataclasses import asdict

import pytest

from benchmarks import loading
from benchmarks.loading import Loaded, Resident

MB = 10**6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_own_memory_grows_by_what_is_allocated() -> None:
    size = 64 * MB
    before = loading.resident()
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held.write(b"1" * size)
        grown = loading.resident().own - before.own
    assert grown >= 0.9 * size


def process(
    load: float, text: float | None, peak: int, own: int, copies: int = 0
) -> dict[str, object]:
    nothing, loaded = Resident(0, 0, 0), Resident(90 * MB, 10 * MB, 80 * MB)
    after = Resident(peak * MB, own * MB, 100 * MB)
    return asdict(Loaded(load, text, nothing, loaded, after, 100 * MB, 4 * MB, copies * MB))


def test_the_page_has_ratios_of_pairs_and_shares_of_the_weights() -> None:
    found = {
        "transformers": [process(1.0, None, 90, 10), process(2.0, None, 90, 10)],
        "skipopt": [process(1.2, None, 90, 10), process(2.4, None, 90, 10)],
        "plain": [process(1.2, 3.0, 120, 15)],
        "int8": [process(1.2, 2.5, 150, 40, copies=25)],
    }
    record = {"model": "A", "command": "c", "environment": {"threads": 2}, "processes": found}
    page = "\n".join(loading.report([record]))
    assert "| ratio of pairs (95 %) | 1.20 (1.20–1.20) |" in page
    assert "| first text after it, int8 | 2.50 (2.50–2.50) |" in page
    assert "| skipopt, loading: highest | 90 | 0.90 (0.90–0.90) |" in page
    assert "a plain text: own memory | 5 | 0.05 (0.05–0.05) |" in page
    assert "with int8 drafts: own memory | 30 | 0.30 (0.30–0.30) |" in page
    assert "| of it: int8 copies | 25 | 0.25 |" in page
