"""Cores and memory that this process may use."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
import torch

from skipopt import machine
from skipopt.cli.model_options import set_threads

linux = pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="memory is read from /proc")


@linux
def test_memory_of_this_process_grows_with_what_it_holds() -> None:
    before = machine.own_memory()
    with mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held.write(os.urandom(1 << 20) * 64)
        after = machine.own_memory()
        assert before is not None
        assert after is not None
        assert after - before > 0.9 * len(held)


@linux
def test_free_memory_is_less_than_that_of_the_machine() -> None:
    free = machine.free_memory()
    assert free is not None
    assert 0 <= free < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@linux
def test_the_limit_of_a_container_bounds_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(machine, "MEMORY_LIMITS", ((str(limit), str(used)),))
    unlimited = machine.free_memory()
    limit.write_text("3000\n")
    used.write_text("1000\n")
    assert machine.free_memory() == 2000
    limit.write_text("max\n")
    assert unlimited is not None
    assert (machine.free_memory() or 0) > 1e6


def test_memory_is_unknown_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert (machine.free_memory(), machine.own_memory()) == (None, None)


@pytest.mark.parametrize(
    ("asked", "used"), [(9999, "cores"), (10**30, "cores"), (1, 1), (None, 0)]
)
def test_there_are_no_more_threads_than_cores(asked: int | None, used: object) -> None:
    before, notes = torch.get_num_threads(), list[str]()
    try:
        set_threads(asked, notes.append)
        expected = {"cores": machine.usable_cores(), 0: before}.get(used, used)
        assert torch.get_num_threads() == expected
        told = [f"{expected} instead of {asked} threads: one for each core that may be used here"]
        assert notes == (told if used == "cores" else [])
    finally:
        torch.set_num_threads(before)
