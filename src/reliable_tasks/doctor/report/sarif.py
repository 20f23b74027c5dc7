"""A report as SARIF 2.1.0, which code hosts show beside the code (pure)."""

from __future__ import annotations

from typing import Any

from reliable_tasks.doctor.checks import CHECKS
from reliable_tasks.doctor.findings import ERROR, INFO, WARNING, Check, Finding
from reliable_tasks.doctor.report.model import Report

__all__ = ("as_sarif",)

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
LEVELS = {ERROR: "error", WARNING: "warning", INFO: "note"}


def as_sarif(report: Report, *, version: str) -> dict[str, Any]:
    """
    Return *report* in the types of JSON.

    Args:
        report: What was found.
        version: Of this library.
    """
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "reliable-tasks doctor",
                        "version": version,
                        "rules": [_rule(check) for check in CHECKS],
                    }
                },
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "toolExecutionNotifications": [
                            {"level": "note", "message": {"text": f"{gap.what}: {gap.why}"}}
                            for gap in report.gaps
                        ],
                    }
                ],
                "results": [_result(finding, report) for finding in report.findings],
            }
        ],
    }


def _rule(check: Check) -> dict[str, Any]:
    return {
        "id": check.id,
        "shortDescription": {"text": check.title},
        "fullDescription": {"text": check.why},
        "help": {"text": check.fix, "markdown": f"{check.why}\n\n```\n{check.fix}\n```"},
        "defaultConfiguration": {"level": LEVELS[check.severity]},
    }


def _result(finding: Finding, report: Report) -> dict[str, Any]:
    index = next(number for number, check in enumerate(CHECKS) if check.id == finding.id)
    return {
        "ruleId": finding.id,
        "ruleIndex": index,
        "level": LEVELS[finding.severity],
        "message": {
            "text": f"{finding.title} Found: {finding.value}. {finding.why} Write: {finding.fix}"
        },
        "locations": [_location(report)],
    }


def _location(report: Report) -> dict[str, Any]:
    """Return where the app is: the settings have no lines of their own."""
    location: dict[str, Any] = {"logicalLocations": [{"name": report.app, "kind": "module"}]}
    if report.file is not None:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": report.file},
            "region": {"startLine": 1},
        }
    return location
