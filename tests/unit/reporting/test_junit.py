"""A JUnit report is XML whatever a profile holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

from skipopt.reporting.junit import junit_report

ODD = 'a\x1b[31m <b> & "c" \x00\x0b\ufffe é 日本'


def test_control_characters_are_replaced() -> None:
    result = SimpleNamespace(
        samples=(),
        lossless=None,
        end_to_end=None,
        kept=None,
        verdict="pass",
        reason=ODD,
        threshold=SimpleNamespace(value=1.0),
        environment={"device": ODD},
    )
    suite = ElementTree.fromstring(junit_report(cast(Any, result), f"{ODD}.yaml"))
    [skipped, *_] = suite.iter("skipped")
    assert skipped.get("message") == 'a\ufffd[31m <b> & "c" \ufffd\ufffd\ufffd é 日本'
