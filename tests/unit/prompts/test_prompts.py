"""Prompts are read strictly, and split into parts that share no prompt."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from skipopt.errors import PromptError
from skipopt.prompts import BUILTIN, Message, Prompt, PromptSet, load_prompts, split_prompts
from tools.make_builtin_prompts import cut_snippets, deal_files, prompt_records

MANY = [f"prompt number {i}" for i in range(40)]


def texts(prompts: PromptSet) -> set[str | None]:
    return {p.text for p in prompts.calibration + prompts.held_out}


def write(tmp_path: Path, text: str | bytes, name: str = "prompts.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def failure(path: Path) -> str:
    """The message of the PromptError, checked to be one line with a hint."""
    with pytest.raises(PromptError) as caught:
        load_prompts(path)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_one_text_is_not_a_list_of_prompts() -> None:
    with pytest.raises(PromptError, match="list of texts") as caught:
        split_prompts("prompts.txt", "given")
    assert "load_prompts" in (caught.value.hint or "")


# Reading


def test_text_is_split_at_blank_lines_and_keeps_its_indentation(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff\n\n    def a():\r\n        pass\n \t\n\n\nsecond\x0c line\n")
    assert texts(load_prompts(path)) == {"    def a():\n        pass", "second\x0c line"}


def test_json_lines_hold_prompts_and_chats(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    lines = [{"prompt": "a\n\nb\u2028c", "id": 3}, {"messages": chat}]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    prompts = load_prompts(write(tmp_path, text, "p.JSONL"))
    both = {*prompts.calibration, *prompts.held_out}
    messages = (Message("system", "Be brief."), Message("user", "Hi"))
    assert both == {Prompt("a\n\nb\u2028c"), Prompt(messages=messages)}
    assert Prompt(messages=messages).chat() == chat


def test_a_folder_holds_one_prompt_per_file(tmp_path: Path) -> None:
    write(tmp_path, "one\n\nstill one\n", "b.py")
    write(tmp_path, "two", "a.md")
    write(tmp_path, b"\x00\xff", ".hidden")
    (tmp_path / "sub").mkdir()
    assert texts(load_prompts(tmp_path)) == {"one\n\nstill one", "two"}


def test_the_order_of_a_folder_is_that_of_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path, text, f"{i:02d}.txt") for i, text in enumerate(MANY)]
    monkeypatch.setattr(Path, "iterdir", lambda _: reversed(paths))
    assert load_prompts(tmp_path).digest == split_prompts(MANY, "here").digest


def test_the_source_is_the_path(tmp_path: Path) -> None:
    path = write(tmp_path, "a\n\nb")
    assert load_prompts(path).source == str(path)
    assert load_prompts(str(path)) == load_prompts(path)


@pytest.mark.parametrize("both", [{}, {"text": "a", "messages": (Message("user", "b"),)}])
def test_a_prompt_is_text_or_messages(both: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="either text or messages"):
        Prompt(**both)  # type: ignore[arg-type]


# --- invalid files


def test_a_missing_file(tmp_path: Path) -> None:
    assert "there are no prompts at" in failure(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl"])
@pytest.mark.parametrize("text", ["", " \n\n\t\n"])
def test_an_empty_file(tmp_path: Path, name: str, text: str) -> None:
    assert "there are no prompts in it" in failure(write(tmp_path, text, name))


def test_an_empty_folder(tmp_path: Path) -> None:
    write(tmp_path, "x", ".hidden")
    assert "there are no files" in failure(tmp_path)


@pytest.mark.parametrize("data", [b"abc\xff\xfe\n\nd", b"abc\x00def\n\nd"])
@pytest.mark.parametrize("name", ["p.txt", "p.jsonl"])
def test_a_binary_file(tmp_path: Path, name: str, data: bytes) -> None:
    assert "is not text" in failure(write(tmp_path, data, name))


def test_a_binary_file_in_a_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path, "fine", "a.txt")
    write(tmp_path, b"\xff", "b.bin")
    assert "b.bin: the file is not text" in failure(tmp_path)


@pytest.mark.parametrize("count", [1, 3])
def test_one_prompt_is_too_few(tmp_path: Path, count: int) -> None:
    same = "\n\n".join(["the same\nprompt", "the  same prompt ", "the same\n prompt"][:count])
    assert "only one distinct prompt" in failure(write(tmp_path, same))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "a"', "JSON"),
        ("prompt: a", "JSON"),
        ("[" * 100_000, "JSON"),
        ('["a"]', "object"),
        ("null", "object"),
        ("{}", "no key with a prompt"),
        ('{"txt": "a"}', "only 'txt'"),
        ('{"prompt": "a", "messages": []}', "messages"),
        ('{"prompt": 5}', "prompt: "),
        ('{"prompt": true}', "prompt: "),
        ('{"prompt": " \\n"}', "prompt: must not be blank"),
        ('{"prompt": "\\ud800"}', "Invalid JSON"),
        ('{"messages": "Hi"}', "messages: "),
        ('{"messages": []}', "messages: "),
        ('{"messages": ["Hi"]}', "messages.0"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "user"}]}',
            "messages.1.content",
        ),
        ('{"messages": [{"content": "a"}]}', "messages.0.role"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str, problem: str) -> None:
    text = f'{{"prompt": "fine"}}\n\n{line}\n{{"prompt": "also fine"}}'
    message = failure(write(tmp_path, text, "p.jsonl"))
    assert "p.jsonl: line 3: " in message
    assert problem in message


# Splitting


@pytest.mark.parametrize("count", range(2, 12))
def test_the_halves_are_of_one_size_and_share_nothing(count: int) -> None:
    prompts = split_prompts(MANY[:count], "here")
    halves = set(prompts.calibration), set(prompts.held_out)
    assert not halves[0] & halves[1]
    assert sum(map(len, halves)) == count
    assert abs(len(halves[0]) - len(halves[1])) <= 1


def test_prompts_that_differ_in_white_space_only_are_one() -> None:
    chat = [Prompt(messages=(Message("user", text),)) for text in ("a b", "a\n b")]
    prompts = split_prompts(["x y", *chat, " x\ny ", "x y", "z"], "here")
    kept = {*prompts.calibration, *prompts.held_out}
    assert kept == {Prompt("x y"), chat[0], Prompt("z")}


def test_appending_moves_no_earlier_prompt() -> None:
    whole = split_prompts(MANY, "here")
    for count in range(2, len(MANY)):
        part = split_prompts(MANY[:count], "here")
        assert part.calibration == whole.calibration[: len(part.calibration)]
        assert part.held_out == whole.held_out[: len(part.held_out)]


def test_a_pattern_in_the_order_is_not_a_pattern_of_the_halves() -> None:
    calibration = {p.text for p in split_prompts(MANY, "here").calibration}
    even = sum(text in calibration for text in MANY[::2])
    assert 4 <= even <= 16


def test_the_split_and_the_digest_are_the_same_in_another_process() -> None:
    code = (
        "from skipopt.prompts import split_prompts;"
        "print(split_prompts([f'prompt number {i}' for i in range(40)], 'x').digest)"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.strip() == split_prompts(MANY, "here").digest


def test_the_digest_is_that_of_the_prompts() -> None:
    whole = split_prompts(MANY, "here")
    swapped = PromptSet(whole.held_out, whole.calibration, "here")
    others = [split_prompts(MANY[:-1], "here"), split_prompts([*MANY[:-1], "x"], "here"), swapped]
    assert len({p.digest for p in [whole, *others]}) == 4
    assert whole.digest.startswith("sha256:")


def test_category_and_place_are_no_part_of_a_prompt() -> None:
    named = Prompt("a", category="chat", where="p.jsonl: line 1")
    assert named == Prompt("a")
    assert named.canonical() == Prompt("a").canonical()


def test_tools_and_a_validation_part_change_the_digest() -> None:
    chat = (Message("user", "a"),)
    plain, tooled = Prompt(messages=chat), Prompt(messages=chat, tools='[{"type": "function"}]')
    first, second = Prompt("b"), Prompt("c")
    sets = [
        PromptSet((plain,), (first, second), "here"),
        PromptSet((tooled,), (first, second), "here"),
        PromptSet((plain,), (first,), "here", validation=(second,)),
    ]
    assert len({each.digest for each in sets}) == 3


def test_a_chat_has_another_digest_than_its_text() -> None:
    chat = Prompt(messages=(Message("user", "a"),))
    as_chat = PromptSet((chat,), (Prompt("b"),), "here")
    as_text = PromptSet((Prompt(json.dumps(chat.chat())),), (Prompt("b"),), "here")
    assert as_chat.digest != as_text.digest


# The built-in set


def builtin_records() -> list[dict[str, str]]:
    from importlib.resources import files

    text = (files("skipopt") / "data" / "prompts.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_builtin_set_is_there_whole() -> None:
    prompts = load_prompts()
    assert prompts.source == BUILTIN
    assert min(len(prompts.calibration), len(prompts.held_out)) >= 24
    assert len(texts(prompts)) == len(builtin_records())
    assert all(460 <= len(text or "") <= 810 for text in texts(prompts))


def test_no_file_serves_both_halves_of_the_builtin_set() -> None:
    records = builtin_records()
    parts = {
        part: {r["file"] for r in records if r["part"] == part}
        for part in ("calibration", "held_out")
    }
    assert not parts["calibration"] & parts["held_out"]
    assert min(map(len, parts.values())) >= 8


def test_the_builtin_prompts_are_from_files_kept_out_of_training() -> None:
    from skipopt.training.corpus import bucket

    assert {bucket(record["file"]) for record in builtin_records()} == {0}


# --- making the built-in set


def module(functions: int) -> str:
    """Source text with `functions` functions of about 700 characters each."""
    body = "\n".join(
        f"    value_{i} = compute({i}, 'some text to fill the line')" for i in range(13)
    )
    return (
        "import os\n\n\n" + "\n\n\n".join(f"def f{n}():\n{body}" for n in range(functions)) + "\n"
    )


def test_prompts_are_cut_from_a_def_to_the_middle_of_a_body() -> None:
    text = module(30)
    cut = cut_snippets(text)
    assert len(cut) == 4
    assert len(set(cut)) == 4
    for prompt in cut:
        assert prompt.startswith("def f")
        assert 460 <= len(prompt) <= 810
        following = text[text.index(prompt) + len(prompt) :]
        assert following.startswith("\n    value_")


def test_prompts_end_outside_strings_and_brackets() -> None:
    inside = "\n".join(f"    line {i} of a text that is not code" for i in range(60))
    text = f'def f():\n    x = """\n{inside}\n    """\n    return x\n'
    assert cut_snippets(text * 3) == []


def test_prompts_do_not_end_with_their_function() -> None:
    line = f"    x = '{'y' * 385}'\n"
    assert cut_snippets(f"def f():\n{line}{line}g()\n" * 10) == []
    assert cut_snippets(f"def f():\n{line}{line}    g()\n" * 10) != []


def test_prompts_are_spread_over_the_file() -> None:
    text = module(30)
    places = [text.index(prompt) / len(text) for prompt in cut_snippets(text)]
    assert places == sorted(places)
    assert places[0] < 0.25
    assert places[-1] > 0.75


def test_prompts_from_elsewhere_are_none_of_the_others() -> None:
    text = module(30)
    ordinary, fresh = cut_snippets(text), cut_snippets(text, elsewhere=True)
    assert len(fresh) == len(ordinary) == 4
    for prompt in fresh:
        start = text.index(prompt)
        others = [(text.index(other), len(other)) for other in ordinary]
        assert all(start + len(prompt) <= at or at + size <= start for at, size in others)
    assert cut_snippets(module(1), elsewhere=True) == []


@pytest.mark.parametrize(
    ("notice", "used"),
    [
        ("# Copyright 1994 by Somebody Else", False),
        ("# Copyright (C) 2007 Somebody", False),
        ("# Copyright (C) 2002-2007 Python Software Foundation", True),
    ],
)
def test_files_of_other_copyright_holders_are_left_out(notice: str, used: bool) -> None:
    assert bool(cut_snippets(f"{notice}\n{module(30)}")) is used


def test_files_are_dealt_evenly() -> None:
    parts = deal_files({"a": 4, "b": 4, "c": 2, "d": 1, "e": 1, "f": 0})
    first, second = "calibration", "held_out"
    assert parts == {"a": first, "b": second, "c": first, "d": second, "e": second, "f": first}


def test_records_name_file_and_part() -> None:
    records = prompt_records({"b.py": module(30), "a.py": module(24), "tiny.py": "x = 1\n"})
    assert [r["file"] for r in records] == ["a.py"] * 4 + ["b.py"] * 4
    assert {(r["file"], r["part"]) for r in records} == {
        ("a.py", "calibration"),
        ("b.py", "held_out"),
    }
