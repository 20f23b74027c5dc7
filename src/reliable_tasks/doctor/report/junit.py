"""A report as JUnit's XML: a test for each check (pure)."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from reliable_tasks.doctor.findings import Check, Finding
from reliable_tasks.doctor.report.model import Report

__all__ = ("as_junit",)

NAME = "reliable-tasks doctor"


def as_junit(report: Report, *, fail_on: str = "error") -> str:
    """
    Return *report* as XML.

    Args:
        report: What was found.
        fail_on: ``"error"`` or ``"warning"``: what is at least as bad is a failed test.
    """
    bad = report.failures(fail_on)
    cases = [_case(check, report, bad) for check in _checks(report)]
    suite = Element(
        "testsuite",
        name=f"{NAME}: {report.app}",
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors="0",
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        time="0",
    )
    suite.extend(cases)
    if report.gaps:
        lines = [f"{gap.what}: {gap.why}" for gap in report.gaps]
        SubElement(suite, "system-out").text = "\n".join(["Not examined:", *lines])
    suites = Element("testsuites", name=NAME)
    suites.append(suite)
    indent(suites)
    return tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _checks(report: Report) -> list[tuple[str, str]]:
    """Return id and topic of each check, those that found something first."""
    found = [(finding.id, finding.topic) for finding in report.findings]
    others: list[Check] = [*report.passed, *report.undecided, *report.ignored]
    return list(dict.fromkeys([*found, *((check.id, check.topic) for check in others)]))


def _case(check: tuple[str, str], report: Report, bad: tuple[Finding, ...]) -> Element:
    id_, topic = check
    case = Element("testcase", classname=f"doctor.{topic}", name=id_, time="0")
    found = [finding for finding in report.findings if finding.id == id_]
    failures = [finding for finding in found if finding in bad]
    if failures:
        first = failures[0]
        failure = SubElement(case, "failure", type=first.severity, message=first.title)
        failure.text = "\n\n".join(map(_text, found))
    elif found:
        SubElement(case, "system-out").text = "\n\n".join(map(_text, found))
    elif any(each.id == id_ for each in report.undecided):
        SubElement(case, "skipped", message="not examined")
    elif any(each.id == id_ for each in report.ignored):
        SubElement(case, "skipped", message="ignored")
    return case


def _text(finding: Finding) -> str:
    return (
        f"{finding.severity}: {finding.title}\nFound: {finding.value}\nWhy: {finding.why}\n"
        f"Write:\n{finding.fix}\nMore: {finding.page}"
    )
