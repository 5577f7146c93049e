"""`skipopt serve` and `skipopt export`: what is refused before a model is loaded."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from support.command_line import Cli, expect_error

from skipopt.cli.serve import SHUTDOWN_SECONDS


def test_an_open_address_needs_a_key(cli: Cli) -> None:
    expect_error(cli("serve", "--host", "0.0.0.0"), 2, "0.0.0.0", "SKIPOPT_API_KEY")


def test_packages_that_are_missing_are_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipopt.serving.server.PACKAGES", ("sys", "no_such_package"))
    expect_error(cli("serve"), 1, "needs no_such_package", "skipopt[serving]")


def test_export_needs_a_profile_and_a_folder(cli: Cli, tmp_path: Path) -> None:
    expect_error(cli("export", "-o", tmp_path / "out"), 2, "profile")
    expect_error(cli("export", "-p", "no.yaml"), 2, "-o FOLDER")
    expect_error(cli("export", "-p", "no.yaml", "-o", tmp_path / "out"), 1, "no.yaml")


@pytest.mark.slow
def test_a_server_that_is_told_to_stop_waits_for_no_long_queue() -> None:
    """A dozen long texts are under way, which take far longer than the time to stop."""
    openai = pytest.importorskip("openai")
    pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    server = subprocess.Popen(
        [sys.executable, "-m", "skipopt", "serve", "builtin", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    with server, ThreadPoolExecutor(12) as pool:
        address = wait_for_address(server)
        client = openai.OpenAI(base_url=address, api_key="any", max_retries=0, timeout=60)

        def ask() -> None:
            with suppress(openai.OpenAIError):
                client.completions.create(model="any", prompt="def f(", max_tokens=1000)

        answers = [pool.submit(ask) for _ in range(12)]
        time.sleep(1)
        server.send_signal(signal.SIGTERM)
        began = time.monotonic()
        status = server.wait(timeout=60)
        assert time.monotonic() - began < SHUTDOWN_SECONDS + 5
        for answer in answers:
            answer.result()
    assert status in (143, -signal.SIGTERM)


def wait_for_address(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"http://\S+/v1", line):
            return found[0]
    raise AssertionError("the server has ended")
