"""`skipopt chat` as a user types it, one turn on each line."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from support.chats import save_chat_model
from support.command_line import Cli, Ended, expect_error

from skipopt import interrupts
from skipopt.cli import chat as chat_command

SHORT = ("--max-new-tokens", 12)


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a chat template."""
    return save_chat_model(tmp_path_factory.mktemp("models") / "talker")


def documents(ended: Ended) -> list[dict[str, Any]]:
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def test_each_line_is_answered_as_run_answers_the_messages(
    cli: Cli, talker: Path, tmp_path: Path
) -> None:
    lines = b"Hello\n\nAnd now?\n"
    made = documents(
        cli("chat", talker, *SHORT, "--system", "Be brief.", "--json", "-q", stdin=lines)
    )
    assert [each["turn"] for each in made] == [1, 2]
    messages = [{"role": "system", "content": "Be brief."}]
    for text, each in zip(["Hello", "And now?"], made, strict=True):
        messages.append({"role": "user", "content": text})
        file = tmp_path / "messages.json"
        file.write_text(json.dumps(messages))
        alone = json.loads(cli("run", talker, *SHORT, "--messages", file, "--json", "-q").out)
        for key in ("text", "tokens", "prompt_tokens", "stop_reason"):
            assert each[key] == alone[key]
        assert alone["cached_tokens"] == 0
        messages.append({"role": "assistant", "content": each["text"]})
    assert made[0]["cached_tokens"] == 0
    assert made[1]["cached_tokens"] >= made[0]["prompt_tokens"]


def test_answers_go_to_stdout_and_their_speed_to_stderr(cli: Cli, talker: Path) -> None:
    given: dict[str, Any] = {"stdin": b"Hello\nAgain\n/exit\nnever read\n"}
    ended = cli("chat", talker, *SHORT, "--method", "token-recycling", **given)
    made = documents(cli("chat", talker, *SHORT, "--json", **given))
    texts = [each["text"] for each in made]
    assert ended.out == "".join(t if t.endswith("\n") else t + "\n" for t in texts)
    assert cli("chat", talker, *SHORT, "--no-progress", **given).out == ended.out
    speeds = [line for line in ended.err.splitlines() if line.startswith("token-recycling")]
    assert len(speeds) == 2
    assert all("× plain decoding" in line for line in speeds)
    assert f"of {made[1]['prompt_tokens']} prompt tokens" in speeds[1]


def test_the_speedup_is_estimated_for_drafts_only(cli: Cli, talker: Path) -> None:
    common = ("chat", talker, *SHORT, "--json", "-q")
    [drafted] = documents(cli(*common, "--method", "suffix", stdin=b"Hello\n"))
    [plain] = documents(cli(*common, stdin=b"Hello\n"))
    assert drafted["estimated_speedup"] > 0
    assert plain["estimated_speedup"] is None
    assert drafted["text"] == plain["text"]


def test_commands_are_no_turns(cli: Cli, talker: Path) -> None:
    lines = b"Hello\n/reset\nHello\n/system Be brief.\nHello\n/system\nHello\n"
    ended = cli("chat", talker, *SHORT, "--json", stdin=lines)
    first, again, brief, last = documents(ended)
    assert again["tokens"] == first["tokens"] == last["tokens"]
    assert again["prompt_tokens"] == first["prompt_tokens"] == last["prompt_tokens"]
    assert brief["prompt_tokens"] > first["prompt_tokens"]
    ended = cli("chat", talker, *SHORT, "--json", stdin=b"/nope\n/help\n/usr/bin is what?\n")
    assert "no command /nope" in ended.err
    assert "/reset" in ended.err
    assert len(documents(ended)) == 1


def test_a_reset_keeps_the_system_message(cli: Cli, talker: Path) -> None:
    lines = b"Hello\n/reset\nHello\n"
    first, again = documents(
        cli("chat", talker, *SHORT, "--json", "-q", "--system", "Be brief.", stdin=lines)
    )
    assert again["prompt_tokens"] == first["prompt_tokens"]


@pytest.fixture
def press(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes the n-th piece of text send signals."""
    show = chat_command.print_text
    monkeypatch.setattr(interrupts, "PATIENCE", 0.0)

    def press(at: int, *numbers: int) -> None:
        shown: list[str] = []

        def show_and_press(text: str) -> None:
            show(text)
            shown.append(text)
            if len(shown) == at:
                for number in numbers:
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(chat_command, "print_text", show_and_press)

    return press


def test_ctrl_c_stops_the_answer_and_not_the_chat(cli: Cli, talker: Path, press: Any) -> None:
    press(3, signal.SIGINT)
    ended = cli("chat", talker, *SHORT, stdin=b"Hello\nAgain\n")
    assert ended.code == 0
    first, second = [line for line in ended.err.splitlines() if line.startswith("plain: ")]
    assert "3 tokens" in first
    assert "stopped by interrupt" in first
    assert "12 tokens" in second


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((signal.SIGINT, signal.SIGINT), 130),
        ((signal.SIGTERM,), 143),
        ((signal.SIGINT, signal.SIGTERM), 143),
    ],
)
def test_a_second_ctrl_c_and_other_signals_end_it(
    cli: Cli, talker: Path, press: Any, numbers: tuple[int, ...], code: int
) -> None:
    press(3, *numbers)
    ended = cli("chat", talker, *SHORT, stdin=b"Hello\nAgain\n")
    assert ended.code == code
    assert ended.err.count("tokens/s") == 0


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_asked_for_each_turn(
    cli: Cli, talker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answers = iter(["Hello", "x" * 2000, "Again"])

    def ask(prompt: str = "") -> str:
        asked.append(prompt)
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(chat_command, "input", ask, raising=False)
    monkeypatch.setattr(io, "TextIOWrapper", Terminal)
    ended = cli("chat", talker, *SHORT)
    assert ended.code == 0
    assert len(asked) == 4
    assert ended.err.count("tokens/s") == 2
    assert "error: the prompt has" in ended.err  # a turn that is too long ends nothing
    assert chat_command.PROMPT in ended.err  # stdout holds answers only


def test_a_base_model_continues_the_text(cli: Cli, tiny: Path) -> None:
    ended = cli("chat", tiny, *SHORT, stdin=b"def f\n")
    assert ended.code == 0
    assert "no chat template" in ended.err
    assert ended.out == cli("run", tiny, *SHORT, "--prompt", "def f").out


def test_bad_input_ends_in_a_line_and_a_hint(cli: Cli, talker: Path) -> None:
    expect_error(cli("chat", talker, "-q", stdin=b"x" * 2000), 1, "context")
    expect_error(cli("chat", talker, "-q", stdin=b"\xff\n"), 1, "UTF-8")
    expect_error(cli("chat", talker, "--chat-template-kwargs", "{"), 2, "JSON")
    expect_error(cli("chat", talker, "--method", "layer-skip"), 2, "--profile")
    kwargs = ("--chat-template-kwargs", '{"loud": true}')
    expect_error(cli("chat", talker, "-q", *kwargs, stdin=b"Hello\n"), 1, "`loud`")


def test_stdout_that_nobody_reads_ends_the_chat(cli: Cli, talker: Path) -> None:
    import subprocess

    from support.command_line import SUBPROCESS

    command = [sys.executable, "-m", "skipopt", "chat", str(talker), "-q"]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        command, input=b"Hello\n" * 3, stdout=writer, stderr=subprocess.PIPE, env=SUBPROCESS
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")
