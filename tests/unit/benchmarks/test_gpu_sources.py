"""Python sources for training and for prompts: split by path, sampled evenly."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu_parts import sources


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, and an empty standard library."""
    monkeypatch.setattr(sources, "source_files", lambda: iter(()))
    monkeypatch.setattr("sysconfig.get_path", lambda kind: str(tmp_path))
    return tmp_path


def test_sources_are_split_by_path_and_hold_no_text_twice(library: Path) -> None:
    for i in range(200):
        (library / f"module_{i}.py").write_text(f"value = {i}\n")
        (library / f"copy_{i}.py").write_text(f"value = {i}\n")
    (library / "tests").mkdir()
    (library / "tests" / "test_all.py").write_text("left = 'out'\n")
    (library / "table.py").write_text("row = 1\n" * 50_000)
    found = sources.read_sources(1_000_000)
    texts = [*found.train.values(), *found.held_out.values()]
    assert len(texts) == len(set(texts)) == 200
    assert all(sources.bucket(name) == 0 for name in found.held_out)
    assert not any(sources.bucket(name) == 0 for name in found.train)
    assert 3 <= len(found.held_out) <= 30


def test_some_of_the_sources_are_an_even_sample(library: Path) -> None:
    for i in range(400):
        (library / f"module_{i}.py").write_text(f"value = {i:06d}\n")
    found = sources.read_sources(15 * 200)
    assert len(found.train) == 200
    assert 4 <= len(found.held_out) <= 30
    more = sources.read_sources(15 * 300)
    assert list(more.train)[:200] == list(found.train)


def test_the_order_of_sources_does_not_favor_the_held_out() -> None:
    """Even where a small part of the sources is read."""
    first = sorted((f"module_{i}" for i in range(8000)), key=sources.order_key)[:64]
    assert sum(sources.bucket(name) == 0 for name in first) < 16


def test_too_few_sources_for_prompts_are_refused(library: Path) -> None:
    (library / "module.py").write_text("value = 1\n")
    with pytest.raises(Exception, match="too little Python source"):
        sources.make_prompts(2, 2)
