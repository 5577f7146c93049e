"""Commands receive typed values; shared options are declared once."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from skipopt.cli.command import command
from skipopt.cli.model_options import ModelOptions
from skipopt.cli.option_groups import GROUPS
from skipopt.cli.options import option
from skipopt.cli.output import Output, Session
from skipopt.cli.settings import FROM_ENVIRONMENT
from skipopt.decoding.options import DecodingOptions
from skipopt.errors import UsageError
from skipopt.study.config import SearchConfig


def parse(*arguments: str) -> dict[str, Any]:
    """What a command with every group of options receives."""
    seen: dict[str, Any] = {}
    app = typer.Typer(rich_markup_mode=None)

    @app.command(context_settings=FROM_ENVIRONMENT)
    @command
    def decode(
        *,
        first: Annotated[int, option("--first")] = 1,
        decoding: DecodingOptions,
        loading: ModelOptions,
        terminal: Output,
    ) -> int:
        seen.update(first=first, decoding=decoding, loading=loading, terminal=terminal)
        return 0

    @app.command(context_settings=FROM_ENVIRONMENT)
    @command
    def search(*, config: SearchConfig, terminal: Output) -> int:
        seen.update(config=config)
        return 0

    app(list(arguments), standalone_mode=False, obj=Session())
    return seen


def test_without_options_a_group_has_the_defaults_of_its_dataclass() -> None:
    assert parse("decode") == {
        "first": 1,
        "decoding": DecodingOptions(),
        "loading": ModelOptions(),
        "terminal": Output(),
    }
    assert parse("search") == {"config": SearchConfig()}


def test_options_become_fields() -> None:
    found = parse(
        "decode", "--first", "2", "--top-k", "5", "--stop", "a b", "--stop", "c", "--dtype",
        "bfloat16", "--trust-remote-code", "--json", "-q",
    )  # fmt: skip
    assert found["first"] == 2
    assert found["decoding"] == DecodingOptions(top_k=5, stop=("a b", "c"))
    assert found["loading"] == ModelOptions(dtype="bfloat16", trust_remote_code=True)
    assert found["terminal"] == Output(json=True, quiet=True)


def test_lists_are_read_from_text() -> None:
    given = (
        "--keep-layers",
        "0, -1",
        "--context-lengths",
        "64,128",
        "--search-space",
        "skip,int8",
    )
    found = parse("search", *given, "--trials", "3")["config"]
    assert found == SearchConfig(
        keep_layers=(0, -1), context_lengths=(64, 128), search_space=("skip", "int8"), trials=3
    )


def test_config_files_and_variables_set_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("keep-layers: 0,-1\nsearch_space: skip\ncontext-lengths: 64\ntau: 0.5\n")
    monkeypatch.setenv("SKIPOPT_TAU", "0.25")
    found = parse("search", "--config", str(path))["config"]
    assert found == SearchConfig(
        keep_layers=(0, -1), search_space=("skip",), context_lengths=(64,), tau=0.25
    )


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["decode", "--max-new-tokens", "0"], "max-new-tokens"),
        (["search", "--keep-layers", "0,last"], "--keep-layers 0,-1"),
        (["search", "--sampler", "oracle"], "oracle"),
    ],
)
def test_a_value_that_a_group_refuses_is_a_usage_error(arguments: list[str], word: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*arguments)
    assert word in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_option_of_a_group_is_a_field(group: type[Any]) -> None:
    assert GROUPS[group].keys() - {"config"} <= {field.name for field in fields(group)}
