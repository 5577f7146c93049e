"""A folder imports only folders above it in the list, so there are no cycles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import skipopt

PACKAGE = Path(skipopt.__file__).parent
DOCUMENTED = Path(__file__).parents[2] / "docs" / "explanation" / "architecture.md"
ENTRY_POINTS = {"__init__", "__main__"}  # import everything, and nothing imports them
FOLDERS = (
    "errors", "interrupts", "yaml_values", "option_values", "machine", "methods", "masks",
    "gaussian_process",
    "draft_vocabulary", "draft_config", "files", "repetition", "memory_usage", "stats",
    "environment", "averages", "profile", "prompts", "one_thread", "logits_processing", "sampling",
    "rounds", "detokenizer", "end_of_turn", "models", "kernels", "runtime", "scoring",
    "cost_model", "online", "draft_memory", "drafting", "verification", "decoding", "serving",
    "training", "measurement", "storage", "samplers", "study", "reporting", "exit_codes", "cli",
    "testing",
)  # fmt: skip
NARROW = {
    "training": {
        "training", "errors", "option_values", "files", "masks", "repetition", "sampling",
        "models", "drafting", "runtime",
    },
}  # fmt: skip


class Import(NamedTuple):
    """An import; `excused` if it is for type checkers only and a comment gives the reason."""

    line: int
    module: str
    excused: bool


def imports(source: str) -> Iterator[Import]:
    """All imports of skipopt's own modules, including those inside functions."""
    tree, lines = ast.parse(source), source.splitlines()
    for_types = {
        id(node) for block in ast.walk(tree) if _for_types(block) for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        for module in _modules(node):
            assert isinstance(node, ast.stmt)
            excused = id(node) in for_types and "#" in lines[node.lineno - 1]
            yield Import(node.lineno, module, excused)


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        named = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "skipopt":
        own = [alias.name for alias in node.names if not alias.name.startswith("__")]
        named = [f"skipopt.{name}" for name in own]  # its version is no folder
    elif isinstance(node, ast.ImportFrom):
        named = ["." * node.level + (node.module or "")]
    else:
        named = []
    return [name for name in named if name.startswith((".", "skipopt."))]


def folder_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def allowed(folder: str) -> set[str]:
    return NARROW.get(folder) or set(FOLDERS[: FOLDERS.index(folder) + 1])


MODULES = [p for p in sorted(PACKAGE.rglob("*.py")) if folder_of(p) not in ENTRY_POINTS]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_folder_imports_earlier_folders_only(path: Path) -> None:
    may = allowed(folder_of(path))
    found = [each for each in imports(path.read_text(encoding="utf-8")) if not each.excused]
    wrong = [f"line {i.line}: {i.module}" for i in found if _folder_named(i) not in may]
    assert not wrong


def _folder_named(found: Import) -> str:
    return found.module.removeprefix("skipopt.").split(".")[0]


def test_every_folder_of_the_package_is_on_the_list() -> None:
    assert {folder_of(path) for path in MODULES} == set(FOLDERS)
    assert len(set(FOLDERS)) == len(FOLDERS)


def test_the_documentation_shows_the_same_list() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", DOCUMENTED.read_text(encoding="utf-8"), re.M)
    assert tuple(rows) == FOLDERS


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch\nimport skipopt\nfrom skipopting import x", []),
        ("import skipopt.cli.app", [Import(1, "skipopt.cli.app", False)]),
        ("from skipopt import __version__", []),
        ("from skipopt import cli", [Import(1, "skipopt.cli", False)]),
        ("def f():\n    from skipopt.cli.app import main", [Import(2, "skipopt.cli.app", False)]),
        ("from .cli import app", [Import(1, ".cli", False)]),
        ("if TYPE_CHECKING:\n    import skipopt.cli", [Import(2, "skipopt.cli", False)]),
        ("if TYPE_CHECKING:\n    import skipopt.cli  # why", [Import(2, "skipopt.cli", True)]),
        ("import skipopt.cli  # why", [Import(1, "skipopt.cli", False)]),
    ],
)
def test_late_and_conditional_imports_are_found(source: str, expected: list[Import]) -> None:
    assert list(imports(source)) == expected
