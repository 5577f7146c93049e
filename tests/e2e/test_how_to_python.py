"""The Python blocks of the how-to pages run as they are."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from support.command_line import Cli

import skipopt
from skipopt.profile import Profile

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


def blocks(page: str, language: str) -> str:
    text = (PAGES / page).read_text(encoding="utf-8")
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S))


def test_generate_text_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks("python.md", "python"), "python.md", "exec"), {})
    printed = capsys.readouterr()
    assert "tokens/s" in printed.out
    assert printed.err == ""


def test_chat_with_a_model(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    ended = []
    for line in blocks("chat.md", "console").split("\n\n"):
        given, _, command = line.strip().removeprefix("$ ").partition(" | skipopt ")
        stdin = subprocess.run(shlex.split(given), capture_output=True, check=True).stdout
        ended.append(cli(*shlex.split(command), stdin=stdin))
        assert ended[-1].code == 0, ended[-1].err
    first, second = map(json.loads, ended[0].out.splitlines())
    assert second["cached_tokens"] > 0
    document = json.loads(ended[1].out)
    assert [each["token"] for each in document["logprobs"]] == document["tokens"]
    exec(compile(blocks("chat.md", "python"), "chat.md", "exec"), {})
    printed = capsys.readouterr()
    assert first["text"] in printed.out
    assert second["text"] in printed.out
    assert printed.err == ""


def test_export_a_model_folder(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    target = skipopt.load("builtin")
    Profile.by_hand(target, attention=[3, 5], mlp=[4], gamma=4).save("profile.yaml")
    for line in blocks("export.md", "console").splitlines():
        assert cli(*shlex.split(line.removeprefix("$ skipopt"))).code == 0
    assert os.path.islink("fast-model/model.safetensors")
    exec(compile(blocks("export.md", "python"), "export.md", "exec"), {})
    text = skipopt.complete(target, "def main():", max_new_tokens=24).text
    assert text.strip() in capsys.readouterr().out


def test_decode_several_prompts_together(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks("batches.md", "python"), "batches.md", "exec"), {})
    assert "tokens/s of all texts" in capsys.readouterr().out
    for line in blocks("batches.md", "console").splitlines():
        ended = cli(*shlex.split(line.removeprefix("$ skipopt")))
        assert ended.code == 0, ended.err
