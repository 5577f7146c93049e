"""Errors in a profile file name the line or the key."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.profiles import GOLDEN_TEXT, changed, failure

from skipopt.errors import ProfileError
from skipopt.profile import Profile

# --- errors in a file


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        (
            "gamma: 6",
            "gamma: 0",
            "drafting.gamma is 0, expected",
            "by hand",
        ),
        ("gamma: 6", "gamma: 6.0", "drafting.gamma is 6.0, expected", "by hand"),
        ("gamma: 6", "gamma: '6'", "drafting.gamma is '6', expected", "quotes"),
        ("gamma: 6", "gamma: true", "drafting.gamma is true, expected", "by hand"),
        ("gamma: 6", "gamma: null", "drafting.gamma is null, expected", "by hand"),
        ("gamma: 6", "gama: 6", "drafting.gama is 6, but there is no such key", "mean 'gamma'"),
        ("  gamma: 6\n", "", "drafting.gamma is missing", "cut short"),
        ("tau: 0.5512", "tau: 1.5", "drafting.tau is 1.5, expected", "hand"),
        ("tau: 0.5512", "tau: -0.1", "drafting.tau is -0.1, expected", ""),
        ("tau: 0.5512", "tau: .nan", "drafting.tau is nan, expected", "by hand"),
        ("tau: 0.5512", "tau: 1_0", "drafting.tau is '1_0', expected", "12, 0.5 or 1e-3"),
        ("gamma: 6", "gamma: 1:30", "drafting.gamma is '1:30', expected", "12, 0.5 or 1e-3"),
        ("gamma: 6", "gamma: 06", "drafting.gamma is '06', expected", "12, 0.5 or 1e-3"),
        ("method: layer-skip", "method: magic", "drafting.method is 'magic', expected one", ""),
        ("[3, 5, 6]", "[3, 16]", "mask.attention is 16, expected a layer from 0 to 15", ""),
        ("[4, 5, 9]", "[-1]", "mask.mlp is -1, expected a layer from 0 to 15", "by hand"),
        ("[4, 5, 9]", "[4, 5, 4]", "mask.mlp is 4, expected each layer once", "by hand"),
        ("[4, 5, 9]", "[4, five]", "mask.mlp[1] is 'five', expected", "quotes"),
        ("[4, 5, 9]", "[true]", "mask.mlp[0] is true, expected", "by hand"),
        ("[4, 5, 9]", "4, 5", "mask.mlp is '4, 5', expected", "by hand"),
        ("layers: 16", "layers: 0", "model.layers is 0, expected", ""),
        ("id: builtin", "id: 123", "model.id is 123, expected", "in quotes"),
        ("id: builtin", "id: ''", "model.id is ''", "by hand"),
        ("sha256:01", "md5:01", "model.fingerprint is 'md5:0123456789abcdef'", ""),
        ("enabled: true", "enabled: 'no'", "enabled is 'no', expected", "by hand"),
        ("enabled: true", "enabled: false", "reason is null, expected text that says why", ""),
        ("lossless: exact", "lossless: maybe", "lossless is 'maybe', expected", ""),
        ("low: 1.35, ", "", "measured.speedup.low is missing", "cut short"),
        ("low: 1.35", "lo: 1.35", "measured.speedup.lo is 1.35, but", "did you mean 'low'"),
        ("speedup: 1.412", "speedup: 0", "predicted.speedup is 0, expected", ""),
        ("seed: 0", "seed: x", "search.seed is 'x', expected", "quotes"),
        ("torch: '2.9'", "torch: 2.9", "environment.torch is 2.9, expected", "in quotes"),
        (
            "schema: 1",
            "schema: 1\nzzz: 3",
            "zzz is 3, but there is no such key",
            "schema, enabled",
        ),
    ],
)
def test_a_wrong_value_is_named(old: str, new: str, message: str, hint: str) -> None:
    error = failure(changed(old, new))
    assert message in str(error)
    assert hint in str(error.hint)


@pytest.mark.parametrize("section", ["model", "mask", "drafting", "predicted", "environment"])
def test_a_section_is_a_mapping(section: str) -> None:
    data = yaml.safe_load(GOLDEN_TEXT)
    error = failure(yaml.safe_dump({**data, section: [1]}))
    assert f"{section} is [1], expected a mapping" in str(error)
    del data[section]
    assert f"{section} is missing" in str(failure(yaml.safe_dump(data)))


def test_further_errors_are_counted() -> None:
    text = changed("gamma: 6", "gamma: 0").replace("seed: 0", "seed: x")
    assert str(failure(text)).endswith("(and 1 more)")


def test_long_values_are_cut() -> None:
    assert "..." in str(failure(changed("id: builtin", f"id: [{', '.join(['x'] * 5000)}]")))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2", "schema is 2, but this skipopt reads schema 1 only"),
        ("0", "schema is 0, expected 1"),
        ("'1'", "schema is '1', expected 1"),
        ("true", "schema is true, expected 1"),
        ("1.0", "schema is 1.0, expected 1"),
        ("null", "schema is null, expected 1"),
    ],
)
def test_another_schema_is_reported_first(value: str, message: str) -> None:
    error = failure(changed("schema: 1", f"schema: {value}\nnew_key: 1"))
    assert message in str(error)
    assert ("upgrade" in str(error.hint)) == (value == "2")


def test_a_missing_schema() -> None:
    assert "schema is missing, expected 1" in str(failure(changed("schema: 1\n", "")))


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_an_empty_file(text: str) -> None:
    assert "the file is empty" in str(failure(text))


@pytest.mark.parametrize("text", ["[1, 2]", "hello", "3", "true"])
def test_a_file_that_is_no_mapping(text: str) -> None:
    assert "expected a mapping" in str(failure(text))


@pytest.mark.slow
def test_a_file_cut_short_anywhere_is_no_profile() -> None:
    last_line = GOLDEN_TEXT.rindex("  threads: ")
    for length in range(last_line + len("  threads: ")):
        failure(GOLDEN_TEXT[:length])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: 1\nmask: [1, 2\nmodel: x\n", "line 3: "),
        ("schema: 1\n\tmask: 2\n", "line 2: found character '\\t'"),
        ("schema: 1\nmask: &a\n  x: *b\n", "line 3: found undefined alias"),
        ("schema: 1\nmask: !!python/name:os.system x\n", "line 2: could not determine"),
        ("schema: 1\n---\nschema: 1\n", "line 2: "),
        ("schema: 1\nreason: \x00\n", "line 2: a character that YAML does not allow"),
        ("schema: 1\n[a]: 2\n", "line 2: a key that is a list or a mapping"),
        ("schema: 1\n7: 3\n", "line 2: the key '7' is not text"),
        ("schema: 1\nmodel:\n  id:\n", "line 3: the key 'id' has no value"),
        ("schema: 1\nreason: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(text: str, message: str) -> None:
    assert message in str(failure(text))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("gamma: 6", "gamma: 6\n  gamma: 7", 18), ("schema: 1", "schema: 1\nschema: 1", 4)],
)
def test_a_key_given_twice_is_an_error(old: str, new: str, line: int) -> None:
    key = old.partition(":")[0]
    assert f"line {line}: the key '{key}' is there twice" in str(failure(changed(old, new)))


def test_the_path_is_in_every_message(tmp_path: Path) -> None:
    cases: dict[str, tuple[Any, str]] = {
        "none.yaml": (None, "there is no file"),
        "folder": ("", "is a folder, expected a file"),
        "binary.yaml": (b"\xff\xfe\x00", "is not text"),
        "wrong.yaml": (changed("gamma: 6", "gamma: 0").encode(), "drafting.gamma is 0"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        if content == "":
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
        with pytest.raises(ProfileError, match=message) as caught:
            Profile.load(path)
        assert str(path) in str(caught.value)
        assert caught.value.hint


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ProfileError, match=r"cannot read 'p.yaml': Permission denied"):
        Profile.load("p.yaml")
