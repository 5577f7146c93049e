"""A JUnit report is XML whatever a profile holds, in the order of the schemas."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from support.check_results import check_result

from skipopt.measurement.lossless import LosslessReport
from skipopt.measurement.regression_gate import CheckResult
from skipopt.reporting.junit import junit_report

ODD = 'a\x1b[31m <b> & "c" \x00\x0b\ufffe é 日本'

# Of Ant's schema: the children of an element in order (* any number, ? at most one), and the
# attributes that it must have.
CHILDREN = {
    "testsuites": r"(testsuite )*",
    "testsuite": r"properties (testcase )*system-out system-err ",
    "properties": r"(property )*",
    "property": "",
    "testcase": r"(skipped |error |failure )?",
    "skipped": "",
    "failure": "",
    "system-out": "",
    "system-err": "",
}
REQUIRED = {
    "testsuite": {
        "package", "id", "name", "timestamp", "hostname", "tests", "failures", "errors", "time",
    },
    "property": {"name", "value"},
    "testcase": {"name", "classname", "time"},
    "failure": {"type"},
}  # fmt: skip
TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"  # the schema allows no zone


def check_schema(element: ElementTree.Element) -> None:
    """Assert that the element and all inside it have these children and attributes."""
    children = "".join(f"{child.tag} " for child in element)
    assert re.fullmatch(CHILDREN[element.tag], children), (element.tag, children)
    assert REQUIRED.get(element.tag, set()) <= set(element.keys()), element.tag
    for child in element:
        check_schema(child)


def suite_of(result: CheckResult, profile: str = "profile.yaml") -> ElementTree.Element:
    root = ElementTree.fromstring(junit_report(result, profile))
    check_schema(root)
    [suite] = root
    return suite


def figures_of(suite: ElementTree.Element) -> dict[str | None, str | None]:
    return {each.get("name"): each.get("value") for each in suite.iter("property")}


def test_control_characters_are_replaced() -> None:
    result = check_result(reason=ODD, lossless=None, environment={"device": ODD})
    [skipped, *_] = suite_of(result, f"{ODD}.yaml").iter("skipped")
    assert skipped.get("message") == 'a\ufffd[31m <b> & "c" \ufffd\ufffd\ufffd é 日本'


@pytest.mark.parametrize(
    "result",
    [
        check_result("pass"),
        check_result("fail"),
        check_result("inconclusive", end_to_end=None, speedup=None, first_text=None),
        check_result("fail", lossless=LosslessReport(3, 0, 1)),
    ],
)
def test_elements_stand_in_the_order_of_the_schema(result: CheckResult) -> None:
    suite = suite_of(result)
    assert re.fullmatch(TIMESTAMP, suite.get("timestamp", ""))


def test_the_figures_are_in_the_report() -> None:
    suite = suite_of(check_result())
    facts = figures_of(suite)
    assert facts["end to end"] == "1.4"
    assert (facts["end to end, low"], facts["end to end, high"]) == ("1.3", "1.5")
    assert facts["acceptance rate"] == "0.75"
    assert facts["verdict"] == "pass"
    assert facts["floor"] == "1.1"
    assert "1.400 × (1.300–1.500)" in (suite.findtext("system-out") or "")


def test_a_report_does_not_name_folders_in_its_classes() -> None:
    case = next(suite_of(check_result(), "/some/folder/my.profile.yaml").iter("testcase"))
    assert case.get("classname") == "skipopt.check.my_profile"


def test_failures_are_counted_on_both_levels() -> None:
    root = ElementTree.fromstring(junit_report(check_result("fail"), "profile.yaml"))
    assert {root.get("failures"), root[0].get("failures")} == {"1"}
    assert {root.get("tests"), root[0].get("tests")} == {"2"}
