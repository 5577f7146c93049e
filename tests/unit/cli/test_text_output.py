"""The hint where a chat model ends its text at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from skipopt.cli.output import Output
from skipopt.cli.text_output import note_empty_text


@pytest.mark.parametrize(
    ("text", "reason", "template", "chat", "hinted"),
    [
        ("", "eos", "{{ messages }}", False, True),
        (" \n", "length", "{{ messages }}", False, True),
        ("a", "eos", "{{ messages }}", False, False),
        ("", "stop", "{{ messages }}", False, False),
        ("", "eos", None, False, False),
        ("", "eos", "{{ messages }}", True, False),
    ],
)
def test_an_empty_text_of_a_chat_model_hints_at_its_template(
    text: str,
    reason: str,
    template: str | None,
    chat: bool,
    hinted: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rounds = SimpleNamespace(stop_reason=reason)
    made = SimpleNamespace(text=text, statistics=SimpleNamespace(rounds=rounds))
    target = SimpleNamespace(tokenizer=SimpleNamespace(chat_template=template))
    request = SimpleNamespace(target=target, chat=chat)
    note_empty_text(cast(Any, made), cast(Any, request), Output())
    assert ("try --chat" in capsys.readouterr().err) == hinted
