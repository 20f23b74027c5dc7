"""A report for people, by rich."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from reliable_tasks.doctor.findings import ERROR, INFO, SEVERITIES, TOPICS, WARNING, Check, Finding
from reliable_tasks.doctor.report.model import Report

__all__ = ("for_people",)

STYLES = {ERROR: "bold red", WARNING: "bold yellow", INFO: "bold cyan"}
INDENT = (0, 0, 0, 4)


def for_people(report: Report) -> Iterator[Any]:
    """Yield what a console of rich prints: the findings by topic, what was not seen, the sum."""
    findings = sorted(report.findings, key=_place)
    for topic, of_topic in groupby(findings, key=lambda finding: finding.topic):
        yield Rule(topic, align="left", style="dim")
        for finding in of_topic:
            yield from _finding(finding)
    yield from _unseen(report)
    yield Text(_sum(report), style="bold")


def _place(finding: Finding) -> tuple[int, int]:
    return TOPICS.index(finding.topic), SEVERITIES.index(finding.severity)


def _finding(finding: Finding) -> Iterator[Any]:
    yield Text.assemble(
        (f"{finding.severity:<8}", STYLES[finding.severity]),
        (finding.title, "bold"),
        f"  [{finding.id}]",
    )
    lines = Table.grid(padding=(0, 1))
    lines.add_row("Found", Text(finding.value))
    lines.add_row("Why", Text(finding.why))
    lines.add_row("Write", Text(finding.fix, style="green"))
    lines.add_row("More", Text(finding.page, style="dim"))
    yield Padding(lines, INDENT, expand=False)
    yield Text()


def _unseen(report: Report) -> Iterator[Any]:
    if report.gaps:
        yield Rule("Not examined", align="left", style="dim")
        for gap in report.gaps:
            yield Padding(Text(f"{gap.what}: {gap.why}"), INDENT, expand=False)
        yield Text()
    if report.offline:
        needed = _count(len(report.undecided), "check")
        yield Text(f"Offline: no server and no worker was asked, as {needed} would need.")
    elif report.undecided:
        yield Text(f"Not decided, for something was not examined: {_ids(report.undecided)}")
    if report.ignored:
        yield Text(f"Ignored: {_ids(report.ignored)}")


def _ids(checks: Iterable[Check]) -> str:
    return ", ".join(check.id for check in checks)


def _sum(report: Report) -> str:
    counts = [
        _count(report.count(ERROR), "error"),
        _count(report.count(WARNING), "warning"),
        f"{report.count(INFO)} to know",
    ]
    decided = len(report.passed) + len(report.ids)
    return f"{report.app}: {', '.join(counts)}; {_count(decided, 'check')} decided"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
