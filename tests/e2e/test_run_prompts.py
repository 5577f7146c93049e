"""Where the prompt of `skipopt run` comes from, and the names that people type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.chats import save_chat_model
from support.command_line import Cli, expect_error

SHORT = ("--max-new-tokens", 8, "--json", "-q")
HELLO = {"role": "user", "content": "Hello"}
BRIEF = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a chat template."""
    return save_chat_model(tmp_path_factory.mktemp("models") / "talker")


def tokens(cli: Cli, *arguments: object, stdin: bytes = b"") -> tuple[int, list[int]]:
    """Length of the prompt, and the new tokens."""
    ended = cli("run", *arguments, *SHORT, stdin=stdin)
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    return document["prompt_tokens"], document["tokens"]


def test_a_dash_is_stdin(cli: Cli, tiny: Path) -> None:
    expected = tokens(cli, tiny, "--prompt", "def f")
    assert tokens(cli, tiny, "--prompt", "-", stdin=b"def f\n") == expected
    assert tokens(cli, tiny, "--prompt-file", "-", stdin=b"def f\n") == expected
    expect_error(cli("run", tiny, "--prompt", "-"), 1, "empty")


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([HELLO], ("--chat", "--prompt", "Hello")),
        ([BRIEF, HELLO], ("--prompt", "Hello", "--system", "Be brief.")),
        ({"messages": [BRIEF, HELLO]}, ("--prompt", "Hello", "--system", "Be brief.")),
        ([HELLO, {"role": "assistant", "content": "Hi"}], ("--chat", "--prompt", "Hello")),
    ],
)
def test_messages_are_a_chat(
    cli: Cli, talker: Path, tmp_path: Path, messages: Any, options: tuple[str, ...]
) -> None:
    file = tmp_path / "messages.json"
    file.write_text(json.dumps(messages))
    expected = tokens(cli, talker, *options)
    assert tokens(cli, talker, "--messages", file) == expected
    assert tokens(cli, talker, "--messages", "-", stdin=file.read_bytes()) == expected


def test_a_system_message_goes_before_the_messages(cli: Cli, talker: Path, tmp_path: Path) -> None:
    file = tmp_path / "messages.json"
    file.write_text(json.dumps([HELLO]))
    found = tokens(cli, talker, "--messages", file, "--system", "Be brief.")
    assert found == tokens(cli, talker, "--prompt", "Hello", "--system", "Be brief.")


def test_a_finished_answer_at_the_end_is_told(cli: Cli, talker: Path, tmp_path: Path) -> None:
    file = tmp_path / "messages.json"
    file.write_text(json.dumps([HELLO, {"role": "assistant", "content": "Hi"}]))
    assert "left out" in cli("run", talker, "-n", 2, "--messages", file).err


def test_variables_of_the_chat_template(cli: Cli, talker: Path) -> None:
    length, _ = tokens(cli, talker, "--chat", "--prompt", "Hello")
    kwargs = ("--chat-template-kwargs", '{"quiet": true}')
    longer, _ = tokens(cli, talker, "--prompt", "Hello", *kwargs)
    assert longer - length == len("(quiet)")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--prompt", "a", "--messages", "m.json"], 2, ["--messages", "exclude"]),
        (["--messages", "none.json"], 1, ["none.json"]),
        (["--messages", "text.json"], 1, ["text.json", "JSON"]),
        (["--messages", "empty.json"], 1, ["empty.json", "role"]),
        (["--messages", "prompt.json"], 1, ["prompt.json", "messages"]),
        (["--messages", "quoted.json"], 1, ["quoted.json", "list"]),
        (["--messages", "brief.json", "--system", "x"], 2, ["--system"]),
        (["--prompt", "a", "--chat-template-kwargs", "[1]"], 2, ["object"]),
        (["--prompt", "a", "--chat-template-kwargs", '{"loud": 1}', "-q"], 1, ["`loud`"]),
        (["--prompt", "a", "--logprobs", "2"], 2, ["--json"]),
        (["--prompt", "a", "--json", "--compare", "--logprobs", "2"], 2, ["--compare"]),
        (["--prompt", "a", "--model", "builtin"], 2, ["twice", "--model"]),
    ],
)
def test_what_cannot_be_meant_is_refused(
    cli: Cli, talker: Path, tmp_path: Path, options: list[str], code: int, words: list[str]
) -> None:
    (tmp_path / "text.json").write_text("Hello")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "prompt.json").write_text('{"prompt": "Hello"}')
    (tmp_path / "quoted.json").write_text('"Hello"')
    (tmp_path / "brief.json").write_text(json.dumps([BRIEF, HELLO]))
    expect_error(cli("run", talker, *options), code, *words)


def test_other_names_of_options(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = cli("run", tiny, "--prompt", "a", "-q", "--max-new-tokens", 5)
    for name in ("--max-tokens", "-n"):
        assert cli("run", tiny, "--prompt", "a", "-q", name, 5) == expected
    common = ("--prompt", "a", "-q", "-n", 5)
    assert cli("run", "--model", tiny, *common) == expected
    monkeypatch.setenv("SKIPOPT_MODEL", str(tmp_path / "none"))
    assert cli("run", "--model", tiny, *common) == expected  # a flag wins over a variable
    hot = ("--seed", 3, "--top-k", 50)
    drawn = cli("run", tiny, *common, *hot, "--temperature", 2)
    assert cli("run", tiny, *common, *hot, "--temp", 2) == drawn


def test_log_probabilities_of_each_token(cli: Cli, tiny: Path) -> None:
    ended = cli("run", tiny, "--prompt", "def f", *SHORT, "--logprobs", 2, "--method", "suffix")
    document = json.loads(ended.out)
    assert [each["token"] for each in document["logprobs"]] == document["tokens"]
    for each in document["logprobs"]:  # greedy: the likeliest token was chosen
        first, second = each["top_logprobs"]
        assert first["token"] == each["token"]
        assert 0 >= first["logprob"] == each["logprob"] >= second["logprob"]


def test_log_probabilities_end_with_the_text(cli: Cli, tiny: Path) -> None:
    whole = json.loads(cli("run", tiny, "--prompt", "def f", *SHORT).out)
    stop = next(c for c in whole["text"] if c != "\ufffd")
    ended = cli("run", tiny, "--prompt", "def f", *SHORT, "--logprobs", 0, "--stop", stop)
    document = json.loads(ended.out)
    assert document["stop_reason"] == "stop"
    assert [each["token"] for each in document["logprobs"]] == document["tokens"]
    assert all(each["top_logprobs"] == [] for each in document["logprobs"])
