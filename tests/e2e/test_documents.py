"""What commands print with --json fits the schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Cli
from support.pages import ROOT

from skipopt.profile import Profile
from tools.make_reference import schemas

jsonschema = pytest.importorskip("jsonschema")

SCHEMAS = schemas()


def errors(document: Any, schema: dict[str, Any]) -> list[str]:
    """What of the document does not fit, each with its path."""
    found = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in found]


def printed(cli: Cli, *arguments: object) -> Any:
    ended = cli(*arguments, "--json", "-q")
    assert ended.code in (0, 3, 4), ended.err
    return json.loads(ended.out)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


def test_documents_of_run_fit_their_schema(cli: Cli, profile: Path) -> None:
    options = ("run", "-p", profile, "--prompt", "def f(a):", "--max-new-tokens", 12)
    for more in ((), ("--compare",), ("--show-rounds",), ("--method", "plain")):
        assert errors(printed(cli, *options, *more), SCHEMAS["run"]) == []


def test_documents_of_bench_and_check_fit_their_schemas(
    cli: Cli, profile: Path, prompts: Path
) -> None:
    options = ("-p", profile, "--prompts", prompts, "--max-new-tokens", 12)
    bench = printed(cli, "bench", *options, "--methods", "plain,layer-skip,suffix", "--repeats", 1)
    assert errors(bench, SCHEMAS["bench"]) == []
    check = printed(cli, "check", *options, "--timeout", 20)
    assert errors(check, SCHEMAS["check"]) == []
    assert errors({**check, "verdict": "perhaps"}, SCHEMAS["check"]) != []


def test_documents_of_search_fit_the_schema_of_profiles(
    cli: Cli, tiny: Path, prompts: Path
) -> None:
    found = printed(
        cli, "search", tiny, "--prompts", prompts, "--trials", 4, "--timeout", 20, "-o", "p.yaml"
    )
    assert errors(found, SCHEMAS["profile"]) == []


@pytest.mark.parametrize("name", ["builtin", "tests/golden/profile.yaml"])
def test_profiles_fit_their_schema(name: str) -> None:
    path = name if name == "builtin" else ROOT / name
    document = Profile.load(path).as_dict()
    assert errors(json.loads(json.dumps(document)), SCHEMAS["profile"]) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("mask", 3), ("enabled", "yes"), ("model", {}), ("unknown", 1), ("schema", None)],
)
def test_wrong_profiles_do_not_fit(key: str, value: object) -> None:
    document = json.loads(json.dumps(Profile.load("builtin").as_dict()))
    assert errors({**document, key: value}, SCHEMAS["profile"]) != []
