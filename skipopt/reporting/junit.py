"""A check as a JUnit report, which CI servers show. Prints nothing."""

from __future__ import annotations

from xml.etree import ElementTree

from skipopt.bench.provenance import as_texts
from skipopt.bench.regression_gate import CheckResult


def junit_report(result: CheckResult, profile: str) -> str:
    """One suite of two cases: is the text plain decoding's, and does the speedup stand?

    Undecided is a skipped case: neither passed nor failed. Nothing is timed of a profile that is
    not lossless, and nothing of either where it decodes plainly.
    """
    suite = ElementTree.Element("testsuite", name="skipopt check")
    exact, speed = (
        ElementTree.SubElement(suite, "testcase", classname=profile, name=name)
        for name in ("lossless", "speedup")
    )
    seconds = sum(s.decoding.prefill_seconds + s.decoding.decode_seconds for s in result.samples)
    speed.set("time", f"{seconds:.3f}")
    if result.lossless is None:
        _add(exact, "skipped", result.reason)
    elif result.lossless.verdict == "failed":
        _add(exact, "failure", result.reason)
    if result.speedup is None or result.verdict == "inconclusive":
        _add(speed, "skipped", result.reason)
    elif result.verdict == "fail":
        _add(speed, "failure", result.reason)
    for kind, tag in (("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped")):
        suite.set(kind, str(sum(1 for _ in suite.iter(tag))))
    facts = ElementTree.SubElement(suite, "properties")
    for name, value in {
        "floor": str(result.threshold.value),
        **as_texts(result.environment),
    }.items():
        ElementTree.SubElement(facts, "property", name=name, value=value)
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)
    return f"{text}\n"


def _add(case: ElementTree.Element, kind: str, message: str) -> None:
    ElementTree.SubElement(case, kind, message=message)
