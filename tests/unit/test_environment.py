"""The environment record describes machine and checkout, without importing anything heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import skipopt
from skipopt import environment
from skipopt.environment import checkout_state, device_name, environment_record, package_version
from skipopt.profile import EnvironmentSection


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one tracked folder, `package`, that holds one file."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "code.py").write_text("1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    who = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    git(tmp_path, *who, "commit", "--quiet", "--message", "one")
    return folder


def git(folder: Path, *arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], cwd=folder, text=True).strip()


def test_the_record_is_what_a_profile_holds() -> None:
    record = environment_record("cpu", "float32", "eager", 2)
    assert [*record, "memory"] == list(EnvironmentSection.model_fields)  # the device of a target
    assert EnvironmentSection.model_validate(record).model_dump() == record | {"memory": None}
    assert json.loads(json.dumps(record)) == record


def test_the_record_has_its_arguments_and_installed_versions() -> None:
    record = environment_record("cpu", "bfloat16", "static", 3)
    assert (record["dtype"], record["runtime"], record["threads"]) == ("bfloat16", "static", 3)
    assert record["skipopt"] == skipopt.__version__
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))


def test_versions_come_from_the_packages() -> None:
    assert package_version("pytest") == pytest.__version__
    assert package_version("no-such-package-at-all") is None


def test_a_record_of_a_cpu_imports_no_torch() -> None:
    code = (
        "import sys; from skipopt.environment import environment_record as record;"
        "record('cpu', 'float32', 'eager', 1);"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["processor\t: 0", "model name\t:  Quick  CPU @ 2GHz ", "model name\t: other"]
    monkeypatch.setattr(environment, "_processor_lines", lambda: lines)
    assert device_name("cpu") == "Quick CPU @ 2GHz"
    assert device_name("mps") == "Quick CPU @ 2GHz (mps)"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("fpu sse2 avx avx2 avx512f avx512_vnni", "AMD EPYC, AVX-512"),
        ("fpu sse2 avx avx2", "AMD EPYC, AVX2"),
        ("fpu sse2", "AMD EPYC, SSE2"),
        ("fpu", "AMD EPYC"),
    ],
)
def test_processors_of_one_name_are_told_apart(
    flags: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["model name\t: AMD EPYC", f"flags\t\t: {flags}", "flags\t\t: avx512f"]
    monkeypatch.setattr(environment, "_processor_lines", lambda: lines)
    assert device_name("cpu") == said


def test_a_processor_without_a_name_is_named_by_its_architecture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "_processor_lines", lambda: ["CPU part\t: 0xd0c"])
    monkeypatch.setattr(environment, "_answer", lambda *_: None)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert device_name("cpu") == "aarch64"


def test_a_gpu_is_named_by_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU at {device}")
    assert device_name("cuda:1") == "GPU at cuda:1"


def test_a_clean_checkout(checkout: Path) -> None:
    assert checkout_state(checkout) == (git(checkout, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_a_changed_or_added_file_makes_it_dirty(checkout: Path, name: str) -> None:
    (checkout / name).write_text("2\n")
    assert checkout_state(checkout) == (git(checkout, "rev-parse", "HEAD"), True)


def test_files_next_to_the_package_do_not_make_it_dirty(checkout: Path) -> None:
    (checkout.parent / "profile.yaml").write_text("schema: 1\n")
    assert checkout_state(checkout)[1] is False


def test_a_package_in_another_repository_has_no_commit(checkout: Path) -> None:
    installed = checkout.parent / "site-packages"
    installed.mkdir()
    (installed / "code.py").write_text("")
    assert checkout_state(installed) == (None, None)


def test_no_repository_at_all(tmp_path: Path) -> None:
    assert checkout_state(tmp_path) == (None, None)


def test_no_git_at_all(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert checkout_state(checkout) == (None, None)


def test_variables_of_a_git_hook_are_ignored(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", os.devnull)
    assert checkout_state(checkout)[0] == git_head(checkout)


def git_head(folder: Path) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "GIT_DIR"}
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.check_output(command, cwd=folder, env=clean, text=True).strip()
