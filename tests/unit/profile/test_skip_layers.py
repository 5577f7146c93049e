"""Masks from skip_layers.json files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.profiles import TARGET

from skipopt.errors import ProfileError
from skipopt.masks import SkipMask
from skipopt.profile import Profile, read_skip_layers

# --- published masks


@pytest.fixture
def skip_layers(tmp_path: Path) -> str:
    path = tmp_path / "skip#layers.json"
    path.write_text(
        '{"llama-2-13b": {"attention": [5, 3], "mlp": []},\n'
        ' "odd": {"attention": [1]}, "twice": {"attention": [1, 1], "mlp": []}, "list": [1]}'
    )
    return str(path)


def test_a_published_mask_is_read_into_a_profile(skip_layers: str) -> None:
    attention, mlp = read_skip_layers(f"{skip_layers}#llama-2-13b")
    assert (attention, mlp) == ([3, 5], [])
    profile = Profile.by_hand(TARGET, attention=attention, mlp=mlp)
    assert profile.skip_mask == SkipMask.of(16, attention=[3, 5])


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("llama", "has no entry 'llama'", "the entries are: llama-2-13b, odd, twice, list"),
        ("odd", "#odd: mlp is missing", ""),
        ("twice", "#twice: attention is 1, expected each layer once", ""),
        ("list", r"the whole is \[1\], expected a mapping", ""),
        ("", "names no entry", "FILE#name"),
    ],
)
def test_a_wrong_entry_is_named(skip_layers: str, name: str, message: str, hint: str) -> None:
    with pytest.raises(ProfileError, match=message) as caught:
        read_skip_layers(f"{skip_layers}#{name}")
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n\n'a': 1}", "line 3: Expecting property name"),
        ("", "line 1: Expecting value"),
        ("[1]", r"the file holds \[1\], expected a mapping"),
        ("[" * 100_000, "nested too deeply"),
        (f'{{"x": {"9" * 5000}}}', "5000 digits"),
        ("{}", "has no entry 'x'"),
    ],
)
def test_a_wrong_skip_layers_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(ProfileError, match=message) as caught:
        read_skip_layers(f"{path}#x")
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_a_missing_skip_layers_file(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="there is no file"):
        read_skip_layers(f"{tmp_path}/none.json#x")
    with pytest.raises(ProfileError, match="names no entry"):
        read_skip_layers("none.json")


def test_profiles_load_no_torch() -> None:
    code = (
        "import sys, skipopt.profile, skipopt.prompts, skipopt.files;"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
