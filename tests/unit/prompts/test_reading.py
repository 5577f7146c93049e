"""Prompt files as people have them: what is recognized is told, and nothing else is guessed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from skipopt.errors import PromptError
from skipopt.prompts import Message, Prompt, load_prompts
from skipopt.prompts.reading import read_prompts

USER, OTHER = {"role": "user", "content": "Hi"}, {"role": "user", "content": "Bye"}
ANSWER = {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOLS = [{"type": "function", "function": {"name": "clock"}}]


def write(folder: Path, data: Any, name: str = "p.jsonl") -> Path:
    """A file of text, of bytes, or of records as JSON Lines."""
    if isinstance(data, list):
        data = "\n".join(json.dumps(each) for each in data)
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def user(text: str) -> Prompt:
    return Prompt(messages=(Message("user", text),))


def read(path: Path, key: str | None = None) -> tuple[list[Prompt], str]:
    """The prompts, and what is told about them without the path."""
    prompts, note = read_prompts(path, key)
    assert "\n" not in note
    return prompts, note.removeprefix(f"{path}: ")


def failure(path: Path, key: str | None = None) -> str:
    with pytest.raises(PromptError) as caught:
        read_prompts(path, key)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is recognized

HUMAN = {"from": "human", "value": "Hi"}
MT_BENCH = "MT-bench `turns`, first turn of each"
KINDS: list[tuple[dict[str, Any], Prompt, str]] = [
    ({"turns": ["Hi", "And?"], "question_id": 81}, user("Hi"), MT_BENCH),
    ({"messages": [USER]}, user("Hi"), "`messages`"),
    ({"custom_id": "1", "body": {"messages": [USER]}}, user("Hi"), "OpenAI batch `body.messages`"),
    ({"body": {"prompt": "Once"}}, Prompt("Once"), "OpenAI batch `body.prompt`"),
    (
        {"conversations": [{"from": "human", "value": "Hi"}]},
        user("Hi"),
        "ShareGPT `conversations`",
    ),
    ({"conversations": [USER]}, user("Hi"), "`conversations`"),
    (
        {"instruction": "Sum.", "input": "1 2", "output": "3"},
        user("Sum.\n\n1 2"),
        "Alpaca `instruction` and `input`",
    ),
    ({"instruction": "Sum.", "input": "", "text": "Sum. 3"}, user("Sum."), "`instruction`"),
    ({"question": "Who?", "context": "Ann."}, user("Who?\n\nAnn."), "`question` and `context`"),
    ({"question": "Who?"}, user("Who?"), "`question`"),
    ({"prompt": "Once"}, Prompt("Once"), "`prompt`"),
    ({"prompt": [USER]}, user("Hi"), "`prompt`"),
    ({"text": "Once"}, Prompt("Once"), "`text`"),
]


@pytest.mark.parametrize(("record", "prompt", "told"), KINDS)
def test_a_kind_of_record(
    tmp_path: Path, record: dict[str, Any], prompt: Prompt, told: str
) -> None:
    prompts, note = read(write(tmp_path, [{**record, "category": "chat"}]))
    assert prompts == [prompt]
    assert note == f"1 prompt from {told}"
    assert prompts[0].category == "chat"
    assert prompts[0].where == f"{tmp_path / 'p.jsonl'}: line 1"


def test_several_kinds_in_one_file_are_counted(tmp_path: Path) -> None:
    records = [{"prompt": "a"}, {"turns": ["b"]}, {"prompt": "c"}, {"prompt": "a "}]
    prompts, note = read(write(tmp_path, records))
    assert len(prompts) == 3
    assert note == (
        "3 prompts from `prompt`; 1 prompt from MT-bench `turns`, first turn of each; "
        "1 repeated or blank left out"
    )


def test_the_note_is_kept_with_the_set(tmp_path: Path) -> None:
    path = write(tmp_path, [{"turns": ["a"]}, {"turns": ["b"]}])
    assert load_prompts(path).note == (
        f"{path}: 2 prompts from MT-bench `turns`, first turn of each"
    )


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "a", "question": "b"}, "more than one key may hold the prompt"),
        ({"question": "a", "input": "b", "context": "c"}, "both input and context"),
        ({"turns": [{"role": "user"}]}, "turns.0: expected text"),
        ({"turns": "a"}, "turns: expected a list"),
        ({"body": {"input": "embed this"}}, "neither 'messages' nor a text 'prompt'"),
        ({"conversations": [{"from": "robot", "value": "a"}]}, "unknown speaker"),
        ({"conversations": ["a"]}, "conversations.0: expected an object"),
        ({"messages": [ANSWER]}, "no user turn"),
        ({"messages": [USER], "functions": [{}]}, "old form of tools"),
        ({"messages": [USER], "tools": "clock"}, "tools: expected a list"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            'messages.0.content: a part that is not text: "image_url"',
        ),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ],
)
def test_what_is_unclear_is_refused(tmp_path: Path, record: dict[str, Any], problem: str) -> None:
    message = failure(write(tmp_path, [{"prompt": "fine"}, record]))
    assert "p.jsonl: line 2: " in message
    assert problem in message


# Chats


def test_a_finished_answer_is_cut_off_and_told(tmp_path: Path) -> None:
    records = [{"messages": [SYSTEM, USER, ANSWER, OTHER, ANSWER]}, {"messages": [OTHER]}]
    prompts, note = read(write(tmp_path, records))
    assert [m.role for m in prompts[0].messages or ()] == ["system", "user", "assistant", "user"]
    assert note == "2 prompts from `messages`; finished answers at the end of 1 cut off"


def test_a_sharegpt_conversation_keeps_its_system_turn(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
    prompts, note = read(write(tmp_path, [{"system": "Be brief.", "conversations": turns}]))
    assert prompts == [Prompt(messages=(Message("system", "Be brief."), Message("user", "Hi")))]
    assert "finished answers at the end of 1 cut off" in note


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER], "system": "Be brief."},
        {"messages": [SYSTEM, USER], "system": "Be brief."},
        {"question": "Hi", "system_prompt": "Be brief."},
        {"turns": ["Hi", "And?"], "system": "Be brief."},
        {"prompt": [USER], "system": "Be brief."},
        {"conversations": [USER], "system": "Be brief."},
    ],
)
def test_a_system_turn_beside_the_prompt_is_kept(tmp_path: Path, record: dict[str, Any]) -> None:
    prompts, _ = read(write(tmp_path, [record]))
    assert prompts == [Prompt(messages=(Message("system", "Be brief."), Message("user", "Hi")))]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "Hi", "system": "Be brief."}, "system: a prompt that is text"),
        ({"prompt": "Hi", "tools": TOOLS}, "tools: a prompt that is text"),
        ({"messages": [SYSTEM, USER], "system": "Be long."}, "another one"),
    ],
)
def test_what_a_prompt_cannot_hold_is_not_dropped(
    tmp_path: Path, record: dict[str, Any], problem: str
) -> None:
    assert problem in failure(write(tmp_path, [record]))


def test_tools_beside_a_question_are_kept(tmp_path: Path) -> None:
    (prompt,), _ = read(write(tmp_path, [{"question": "Hi", "tools": TOOLS}]))
    assert prompt.tool_list() == TOOLS


def test_yaml_is_read_as_records(tmp_path: Path) -> None:
    text = "- Once\n- prompt: |\n    two\n\n    lines\n- messages: [{role: user, content: no}]\n"
    prompts, note = read(write(tmp_path, text, "p.yaml"))
    assert prompts == [Prompt("Once"), Prompt("two\n\nlines\n"), user("no")]
    assert "3 prompts" not in note  # three kinds
    assert "line 2: more than one" in failure(
        write(tmp_path, "- a\n- {prompt: b, question: c}\n", "q.yml")
    )
    assert "expected a list" in failure(write(tmp_path, "prompts: [a, b]\n", "r.yaml"))
    assert "line 3: invalid YAML" in failure(
        write(tmp_path, "- a\n- b\n- {c: 1, c: 2}\n", "s.yaml")
    )


def test_tools_and_tool_calls_stay_with_the_chat(tmp_path: Path) -> None:
    call = [{"type": "function", "function": {"name": "clock", "arguments": "{}"}}]
    chat = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "10:40", "tool_call_id": "1"},
    ]
    (prompt,), _ = read(write(tmp_path, [{"messages": chat, "tools": TOOLS}]))
    assert prompt.tool_list() == TOOLS
    assert prompt.chat() == [USER, {**chat[1], "content": ""}, chat[2]]
    assert prompt.single_turn is None


def test_parts_of_text_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    prompts, _ = read(write(tmp_path, [{"messages": [{"role": "user", "content": parts}]}]))
    assert prompts == [user("a\nb")]


# A key by name


def test_a_key_is_taken_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, [{"ask": "a", "prompt": "b", "meta": {"q": "c", "t": ["d", "e"]}}])
    assert read(path, "ask") == ([Prompt("a")], "1 prompt from `ask`")
    assert read(path, "meta.q") == ([Prompt("c")], "1 prompt from `meta.q`")
    assert read(path, "meta.t") == ([user("d")], "1 prompt from `meta.t`, first turn of each")
    assert "line 1: no key 'none', only 'ask', 'prompt', 'meta'" in failure(path, "none")


def test_plain_text_has_no_keys(tmp_path: Path) -> None:
    assert "plain text has no key 'q'" in failure(write(tmp_path, "a\n\nb", "p.txt"), "q")


# Forms of files


@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.ndjson", "p.txt"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("is_list", [True, False])
def test_json_in_every_form(tmp_path: Path, name: str, indent: int | None, is_list: bool) -> None:
    records = [{"prompt": "a, [b]"}, {"prompt": "c"}, {"prompt": "d"}]
    whole = json.dumps(records, indent=indent)
    apart = "\n".join(json.dumps(each, indent=indent) for each in records)
    prompts, note = read(write(tmp_path, whole if is_list else apart, name))
    assert prompts == [Prompt("a, [b]"), Prompt("c"), Prompt("d")]
    assert note == "3 prompts from `prompt`"
    lines = [int((p.where or "").rpartition(" ")[2]) for p in prompts]
    assert lines == ([1, 1, 1] if is_list and not indent else sorted(set(lines)))


def test_a_list_of_texts(tmp_path: Path) -> None:
    assert read(write(tmp_path, '["a", "b"]', "p.json")) == (
        [Prompt("a"), Prompt("b")],
        "2 prompts from texts of a JSON list",
    )


@pytest.mark.parametrize(
    ("text", "name", "line"),
    [
        ('[\n {"prompt": "a"},\n {"prompt": 5}\n]', "p.json", 3),
        ('[\n {"prompt": "a"},\n {"prompt" "b"}\n]', "p.json", 3),
        ('{"prompt": "a"\n{"prompt": "b"}\n', "p.jsonl", 1),
        ('{"prompt": "a"}\n\n{"prompt": \n', "p.ndjson", 3),
    ],
)
def test_the_line_of_an_error(tmp_path: Path, text: str, name: str, line: int) -> None:
    assert f"{name}: line {line}: " in failure(write(tmp_path, text, name))


@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("value", "problem"),
    [("9" * 5000, "a number with too many digits"), ("[" * 100_000, "too deeply nested")],
)
def test_json_beyond_the_limits_of_python(
    tmp_path: Path, name: str, indent: int | None, value: str, problem: str
) -> None:
    record = json.dumps({"prompt": "a", "id": "here"}, indent=indent).replace('"here"', value)
    assert problem in failure(write(tmp_path, record, name))


def test_text_that_begins_like_json_stays_text(tmp_path: Path) -> None:
    prompts, note = read(write(tmp_path, "{a}\n\n[b]", "p.txt"))
    assert prompts == [Prompt("{a}"), Prompt("[b]")]
    assert note == "2 prompts from text separated by blank lines"


@pytest.mark.parametrize(("name", "mark"), [("p.csv", ","), ("p.tsv", "\t")])
def test_a_table(tmp_path: Path, name: str, mark: str) -> None:
    rows = [["id", "question", "category"], ["1", '"Who,\nand why?"', "qa"], ["2", "When?", ""]]
    path = write(tmp_path, "\r\n".join(mark.join(row) for row in rows), name)
    prompts, note = read(path)
    assert prompts == [user("Who,\nand why?"), user("When?")]
    assert [p.category for p in prompts] == ["qa", None]
    assert note == "2 prompts from `question`"
    assert [p.where for p in prompts] == [f"{path}: line 2", f"{path}: line 4"]
    assert read(path, "id")[0] == [Prompt("1"), Prompt("2")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("id,ask\n1,a", "line 2: no key with a prompt"),
        ("prompt\na,b", "line 2: 2 cells in a table of 1 column"),
        ('prompt\na\n"b', "line 3: unexpected end of data"),
        ("prompt,prompt\na,b", "line 1: two columns are named 'prompt'"),
    ],
)
def test_a_bad_table(tmp_path: Path, text: str, problem: str) -> None:
    assert f"p.csv: {problem}" in failure(write(tmp_path, text, "p.csv"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("pack", [False, True])
def test_encodings(tmp_path: Path, encoding: str, pack: bool) -> None:
    data = '{"prompt": "café 東京 😀"}\r\n{"prompt": "b"}\r\n'.encode(encoding)
    name = "p.jsonl.gz" if pack else "p.jsonl"
    path = write(tmp_path, gzip.compress(data) if pack else data, name)
    assert read(path)[0] == [Prompt("café 東京 😀"), Prompt("b")]


def test_a_packed_file_that_is_cut_off(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps({"prompt": "a" * 50}).encode())
    assert "cannot unpack it with gzip" in failure(write(tmp_path, whole[:-12], "p.jsonl.gz"))


# Folders


def test_a_folder_reads_data_as_data_and_leaves_back_ups_out(tmp_path: Path) -> None:
    write(tmp_path, [{"prompt": "a"}, {"prompt": "b"}], "1.jsonl")
    write(tmp_path, "c\n\nstill c", "2.txt")
    for name in ("2.txt~", ".#2.txt", "#2.txt#", ".2.txt.swp"):
        write(tmp_path, "x", name)
    (tmp_path / "more").mkdir()
    prompts, note = read(tmp_path)
    assert prompts == [Prompt("a"), Prompt("b"), Prompt("c\n\nstill c")]
    assert note == (
        "2 prompts from `prompt`; 1 prompt from files, each one prompt; "
        "left out 4 editor back-ups (#2.txt#, .#2.txt, .2.txt.swp, …); "
        "left out 1 subfolder (more)"
    )


def test_a_bad_line_in_a_folder_is_named_with_its_file(tmp_path: Path) -> None:
    write(tmp_path, [{"prompt": "a"}, {}], "1.jsonl")
    assert "1.jsonl: line 2: " in failure(tmp_path)
