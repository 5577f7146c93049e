"""`skipopt serve` and `skipopt export`: what is refused before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command_line import Cli, expect_error


def test_an_open_address_needs_a_key(cli: Cli) -> None:
    expect_error(cli("serve", "--host", "0.0.0.0"), 2, "0.0.0.0", "SKIPOPT_API_KEY")


def test_packages_that_are_missing_are_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipopt.serving.server.PACKAGES", ("sys", "no_such_package"))
    expect_error(cli("serve"), 1, "needs no_such_package", "transformers[serving]")


def test_export_needs_a_profile_and_a_folder(cli: Cli, tmp_path: Path) -> None:
    expect_error(cli("export", "-o", tmp_path / "out"), 2, "profile")
    expect_error(cli("export", "-p", "no.yaml"), 2, "-o FOLDER")
    expect_error(cli("export", "-p", "no.yaml", "-o", tmp_path / "out"), 1, "no.yaml")
