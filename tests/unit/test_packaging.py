"""What is packed: the built-in profile in the package, and what tests read in the sdist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from support.command_line import SUBPROCESS

from skipopt.errors import ProfileError
from skipopt.profile import Profile

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_built_in_profile_is_in_the_package_and_for_the_built_in_model() -> None:
    import skipopt

    profile = Profile.load("builtin")
    assert (files("skipopt") / "data" / "builtin-profile.yaml").is_file()
    profile.check_model(skipopt.load("builtin"))
    assert profile.enabled


def test_a_file_of_that_name_is_another_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("builtin").write_text("schema: 1\n")
    assert Profile.load("builtin").model.id == "builtin"
    with pytest.raises(ProfileError):
        Profile.load("./builtin")


def test_the_sdist_has_every_folder_that_tests_read() -> None:
    included = {
        each.strip("/")
        for each in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    }
    named: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named |= {
            node.value.partition("/")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        named |= {
            node.module.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
        }
    there = {
        each.name for each in ROOT.iterdir() if each.is_dir() and not each.name.startswith(".")
    }
    assert {"benchmarks", "tools", "results", "docs", "native"} <= named & there
    known = {"build", "dist"}  # made by builds
    assert named & there - known <= included


def test_names_of_the_sdist_match_in_the_top_folder_alone() -> None:
    include = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert all(each.startswith("/") and (ROOT / each[1:]).exists() for each in include)


def test_every_import_is_of_a_declared_package() -> None:
    """Of the package itself: the standard library, dependencies, and those of extras."""
    declared = [*PROJECT["project"]["dependencies"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        declared += extra
    names = {re.split(r"[\[>=<]", each)[0].replace("-", "_") for each in declared}
    names |= {"yaml", "skopt", "sklearn"}  # pyyaml, scikit-optimize, scikit-learn
    # What those bring: transformers[serving], pydantic, transformers, optuna; the last for types.
    names |= {"fastapi", "uvicorn", "pydantic_core", "huggingface_hub", "sqlalchemy", "_typeshed"}
    for path in (ROOT / "skipopt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found = [node.module]
            elif isinstance(node, ast.Import):
                found = [each.name for each in node.names]
            else:
                continue
            for name in found:
                top = name.partition(".")[0]
                assert top in {*names, *sys.stdlib_module_names, "skipopt"} or (
                    path.parts[-2] == "testing" and top == "pytest"
                ), (path, name)


BLOCKED = """
import sys
from importlib.machinery import PathFinder
from skipopt.cli.app import main

class Without:
    find_distributions = PathFinder.find_distributions

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in {names!r}:
            return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
sys.exit(main({arguments!r}))
"""


@pytest.mark.parametrize(
    ("names", "arguments", "words"),
    [
        (["matplotlib"], ["show", "builtin", "-o", "p.png"], ["matplotlib", "skipopt[plots]"]),
        (["jinja2"], ["show", "builtin", "-o", "p.html"], ["jinja2", "skipopt[plots]"]),
        (["fastapi", "uvicorn"], ["serve", "builtin"], ["fastapi", "serving]"]),
        (["gguf"], ["run", "model.gguf", "--prompt", "a"], ["gguf"]),
        (
            ["accelerate"],
            ["run", "builtin", "--device-map", "auto", "--prompt", "a"],
            ["accelerate"],
        ),
        (
            ["psycopg", "psycopg2"],
            ["search", "builtin", "--storage", "postgresql://nowhere/x", "-o", "p.yaml"],
            ["skipopt[storage]"],
        ),
    ],
)
def test_an_optional_part_that_is_missing_is_one_clear_line(
    names: list[str], arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    code = BLOCKED.format(names=set(names), arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**SUBPROCESS, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode in (1, 2), done.stderr
    lines = done.stderr.strip().splitlines()
    assert [line.partition(":")[0] for line in lines[-2:]] == ["error", "hint"], done.stderr
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
