"""The result of `check` as a JUnit report for CI servers."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from skipopt.measurement.provenance import as_texts
from skipopt.measurement.regression_gate import CheckResult

# Characters that XML does not allow, not even escaped: a reason in a profile may hold some.
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
REPLACEMENT = "\ufffd"


def junit_report(result: CheckResult, profile: str) -> str:
    """One suite with the cases `lossless` and `speedup`.

    A case is skipped where it is undecided or was not measured: a profile that is not lossless is
    not timed, and one that decodes plainly is neither compared nor timed.
    """
    suite = ElementTree.Element("testsuite", name="skipopt check")
    exact, speed = (
        ElementTree.SubElement(suite, "testcase", classname=profile, name=name)
        for name in ("lossless", "speedup")
    )
    seconds = sum(s.decoding.total_seconds for s in result.samples)
    speed.set("time", f"{seconds:.3f}")
    if result.lossless is None:
        _add(exact, "skipped", result.reason)
    elif result.lossless.verdict == "failed":
        _add(exact, "failure", result.reason)
    if result.end_to_end is None or result.verdict == "inconclusive":
        _add(speed, "skipped", result.reason)
    elif result.verdict == "fail":
        _add(speed, "failure", result.reason)
    for kind, tag in (("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped")):
        suite.set(kind, str(sum(1 for _ in suite.iter(tag))))
    facts = ElementTree.SubElement(suite, "properties")
    for name, value in {
        "floor": str(result.threshold.value),
        **({"kept": str(result.kept.answer)} if result.kept else {}),
        **as_texts(result.environment),
    }.items():
        ElementTree.SubElement(facts, "property", name=name, value=value)
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)
    return f"{NOT_XML.sub(REPLACEMENT, text)}\n"


def _add(case: ElementTree.Element, kind: str, message: str) -> None:
    ElementTree.SubElement(case, kind, message=message)
