"""Requests of concurrent clients, and what is made of their answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import server_requests
from benchmarks.server_clients import (
    Run,
    cells,
    differences,
    metrics,
    middle_and_high,
    page,
    row_of,
)
from benchmarks.server_requests import (
    LEAVING,
    Answer,
    Question,
    Request,
    StreamWithoutEnd,
    Tally,
    questions_of,
    read_stream,
    requests,
    seconds_to_wait,
)
from skipopt.prompts import Message, Prompt

TEXT, CHAT = Question("def f(", False, "code"), Question("hello", True, "chat")
TEXTS = {TEXT: "x):\n", CHAT: "hi\ufffd"}


def answer(question: Question, text: str, streamed: bool = False) -> Answer:
    first = 1.0 if streamed else None
    return Answer(Request(question, streamed), text, tokens=4, seconds=2.0, first=first)


def finished(*answers: Answer) -> Run:
    """A run without a mistake."""
    last = Tally([answer(TEXT, "x):\n")])
    return Run("plain", Tally(list(answers)), last, seconds=2.0, free_after=0.1, status=143)


def piece(text: str, reason: str | None = None, tokens: int | None = None) -> Any:
    """Of a stream of a completion."""
    usage = None if tokens is None else SimpleNamespace(completion_tokens=tokens)
    return SimpleNamespace(choices=[SimpleNamespace(text=text, finish_reason=reason)], usage=usage)


def test_chats_are_asked_as_texts_too() -> None:
    chat = Prompt(messages=(Message("user", "hello"),), category="chat")
    found = list(questions_of([Prompt("def f(", category="code"), chat]))
    assert found == [TEXT, CHAT, replace(CHAT, chat=False)]
    assert CHAT.content == [{"role": "user", "content": "hello"}]


def test_all_forms_are_asked_and_each_tenth_stream_is_left() -> None:
    questions = [Question(str(i), i % 2 == 0) for i in range(10)]
    asked = list(islice(requests(questions, seed=0), 400))
    left = [number for number, each in enumerate(asked, 1) if each.leave_after is not None]
    assert left == list(range(LEAVING, 401, LEAVING))
    assert all(asked[number - 1].streamed for number in left)
    stay = Counter((each.question, each.streamed) for each in asked if each.leave_after is None)
    assert set(stay) == {(question, form) for question in questions for form in (True, False)}
    assert asked[:20] == list(islice(requests(questions, seed=0), 20))
    assert asked[:20] != list(islice(requests(questions, seed=1), 20))


def test_a_stream_is_whole_left_or_without_end() -> None:
    request = Request(TEXT, True)
    end = piece("", "stop", tokens=3)
    whole = read_stream([piece("x"), piece("):"), end], request, 0.0)
    assert whole is not None
    assert (whole.text, whole.tokens) == ("x):", 3)
    assert whole.first is not None
    assert (
        read_stream([piece("x"), piece("):"), end], replace(request, leave_after=2), 0.0) is None
    )
    early = read_stream([piece("x"), end], replace(request, leave_after=2), 0.0)
    assert early is not None  # it had ended before the client went away
    with pytest.raises(StreamWithoutEnd):
        read_stream([piece("x"), piece("):")], request, 0.0)


def test_a_refused_client_waits_as_long_as_it_is_told() -> None:
    assert seconds_to_wait({"retry-after": "3"}) == 3.0
    assert seconds_to_wait({}) == server_requests.MOMENT
    assert seconds_to_wait({"retry-after": "Mon, 1 Jan"}) == server_requests.MOMENT


def test_every_other_text_is_a_difference() -> None:
    same = [answer(TEXT, "x):\n"), answer(CHAT, "hi\ufffd"), answer(CHAT, "hi", streamed=True)]
    assert differences(same, TEXTS) == []
    others = [answer(CHAT, "hi"), answer(TEXT, "x):", streamed=True), answer(TEXT, "")]
    assert [each["text"] for each in differences(others, TEXTS)] == ["hi", "x):", ""]


def test_a_run_is_clean_only_if_nothing_is_wrong() -> None:
    good = finished(answer(TEXT, "x):\n"))
    assert row_of(good, TEXTS)["clean"]
    wrong = [
        finished(answer(TEXT, "y")),
        finished(),
        replace(good, afterwards=Tally()),
        replace(good, afterwards=Tally([answer(TEXT, "y")])),
        replace(good, free_after=None),
        replace(good, status=0),
        replace(good, status=None),
        replace(good, tracebacks=1),
        replace(good, tally=Tally(good.tally.answers, errors=Counter({"timeout": 1}))),
    ]
    assert not any(row_of(each, TEXTS)["clean"] for each in wrong)
    refused = Tally(good.tally.answers, left=2, refused=5)
    assert row_of(replace(good, tally=refused), TEXTS)["clean"]


def test_tallies_add_up() -> None:
    total = Tally([answer(TEXT, "x")], 1, 2, Counter({"timeout": 1}))
    total.add(Tally([answer(CHAT, "y")], 3, 4, Counter({"timeout": 2, "reset": 1})))
    assert (len(total.answers), total.left, total.refused) == (2, 4, 6)
    assert total.errors == {"timeout": 3, "reset": 1}


def test_the_middle_and_the_95th_percentile() -> None:
    assert middle_and_high([]) is None
    assert middle_and_high([3.0]) == {"median": 3.0, "p95": 3.0}
    found = middle_and_high([float(n) for n in range(101)])
    assert found == pytest.approx({"median": 50.0, "p95": 95.0})


def test_metrics_are_read_by_name() -> None:
    text = '# TYPE a counter\na 3\nb{position="0"} 2.5\n'
    assert metrics(text) == {"a": 3.0, 'b{position="0"}': 2.5}


def test_the_page_has_a_row_for_each_method_and_tells_what_is_wrong() -> None:
    good = finished(answer(TEXT, "x):\n"), answer(CHAT, "hi", streamed=True))
    bad = replace(finished(answer(CHAT, "no")), method="suffix", free_after=None, status=None)
    bad.tally.errors["reset"] = 2
    rows = [row_of(run, TEXTS) for run in (good, bad)]
    assert list(cells(rows[0])) == [
        "plain", "2", "1", "0", "0", "0", "4.0", "1.00 (1.00)", "2.00 (2.00)", "0 / 0", "0",
        "0.1", "143", "0",
    ]  # fmt: skip
    record = {"command": "c", "environment": {}, "clients": 2, "questions": 2, "rows": rows}
    lines = "\n".join(page(record)).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 4
    assert any("reset" in line and "suffix" in line for line in lines)
    assert any("'no'" in line for line in lines)
