"""The result of `check` as a JUnit report for CI servers.

Order and attributes are those of the schemas in use (Ant's, and Jenkins' of its xUnit plugin):
properties, test cases, then the two outputs.
"""

from __future__ import annotations

import platform
import re
from datetime import UTC, datetime
from pathlib import PurePath
from xml.etree import ElementTree

from skipopt.measurement.provenance import as_texts
from skipopt.measurement.regression_gate import CheckResult
from skipopt.reporting.check_figures import check_figures

# Characters that XML does not allow, not even escaped: a reason in a profile may hold some.
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
REPLACEMENT = "\ufffd"


def junit_report(result: CheckResult, profile: str) -> str:
    """One suite with the cases `lossless` and `speedup`; the figures are its properties.

    A case is skipped where it is undecided or was not measured: a profile that is not lossless is
    not timed, and one that decodes plainly is neither compared nor timed.
    """
    seconds = f"{sum(s.decoding.total_seconds for s in result.samples):.3f}"
    root = ElementTree.Element("testsuites", name="skipopt", time=seconds)
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        id="0",
        package="skipopt",
        name=f"skipopt check {profile}",
        time=seconds,
        timestamp=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        hostname=platform.node() or "localhost",
    )
    _add_properties(suite, result)
    _add_cases(suite, result, f"skipopt.check.{PurePath(profile).stem.replace('.', '_')}", seconds)
    figures = [f"{each.name}: {each.words}" for each in check_figures(result)]
    ElementTree.SubElement(suite, "system-out").text = "\n".join([result.reason, *figures])
    ElementTree.SubElement(suite, "system-err")
    for each in (root, suite):
        _count(each)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
    return f"{NOT_XML.sub(REPLACEMENT, text)}\n"


def _add_properties(suite: ElementTree.Element, result: CheckResult) -> None:
    facts = {"verdict": result.verdict, "floor": str(result.threshold.value)}
    for each in check_figures(result):
        facts[each.name] = f"{each.value:.6g}"
        if each.low is not None:
            facts[f"{each.name}, low"] = f"{each.low:.6g}"
            facts[f"{each.name}, high"] = f"{each.high:.6g}"
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in {**facts, **as_texts(result.environment)}.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)


def _add_cases(
    suite: ElementTree.Element, result: CheckResult, classname: str, seconds: str
) -> None:
    exact, speed = (
        ElementTree.SubElement(suite, "testcase", classname=classname, name=name, time=time)
        for name, time in (("lossless", "0.000"), ("speedup", seconds))
    )
    if result.lossless is None:
        _add(exact, "skipped", result.reason)
    elif result.lossless.verdict == "failed":
        _add(exact, "failure", result.reason, "not lossless")
    if result.end_to_end is None or result.verdict == "inconclusive":
        _add(speed, "skipped", result.reason)
    elif result.verdict == "fail":
        _add(speed, "failure", result.reason, "speed regressed")


def _add(case: ElementTree.Element, tag: str, message: str, kind: str | None = None) -> None:
    case_part = ElementTree.SubElement(case, tag, message=message)
    if kind is not None:
        case_part.set("type", kind)


def _count(element: ElementTree.Element) -> None:
    """Write the numbers of cases, failures and errors into the element."""
    kinds = (("tests", "testcase"), ("failures", "failure"), ("errors", "error"))
    skipped = (("skipped", "skipped"),) if element.tag == "testsuite" else ()
    for kind, tag in (*kinds, *skipped):
        element.set(kind, str(sum(1 for _ in element.iter(tag))))
