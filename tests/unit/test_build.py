"""Compiling the kernels when the package is built, and what happens where that is impossible."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

import hatch_build
from hatch_build import LIBRARY, BuildFailed, build, warning_of

COMPILER = "import sys; open(sys.argv[sys.argv.index('-o') + 1], 'w').write(' '.join(sys.argv))"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="not built on Windows")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with sources, and without the library."""
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "api.cpp").touch()
    (tmp_path / LIBRARY).parent.mkdir(parents=True)
    return tmp_path


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes its arguments to its output."""
    monkeypatch.setenv("CXX", shlex.join([sys.executable, "-c", COMPILER]))


@pytest.mark.usefixtures("compiler")
def test_the_library_is_linked_with_the_plainest_instruction_set_first(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert build(root)
    words = (root / LIBRARY).read_text().split()
    objects = [Path(word).stem for word in words if word.endswith(".o")]
    assert objects == ["api", "x86_64", "avx2", "avx512"]
    assert [path.name for path in (root / LIBRARY).parent.iterdir()] == [LIBRARY.name]


@pytest.mark.usefixtures("compiler")
def test_unknown_machines_get_the_generic_kernels(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert build(root)
    assert "generic.o" in (root / LIBRARY).read_text()


def test_a_library_newer_than_its_sources_is_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    (root / LIBRARY).touch()
    os.utime(root / "native" / "api.cpp", (0, 0))
    assert not build(root)


@pytest.mark.parametrize(
    ("command", "reason"), [("no-such", "no C.. compiler"), ("false", "failed")]
)
def test_without_a_library_there_is_one_line_of_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch, command: str, reason: str
) -> None:
    monkeypatch.setenv("CXX", command)
    with pytest.raises(BuildFailed, match=reason) as failure:
        build(root)
    warning = warning_of(failure.value)
    assert command in warning
    assert "\n" not in warning
    assert not (root / LIBRARY).exists()


def test_all_compilers_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: name if name == "clang++" else None)
    assert hatch_build.find_compiler() == ["clang++"]
