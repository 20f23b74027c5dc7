"""The doctor as a function, as type checkers see it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

from reliable_tasks.doctor import Finding, Report, examine

app: Any = ...

report = examine(app, offline=True, timeout=1, grace_period=timedelta(seconds=30), ignore={"eager"})

assert_type(report, Report)
assert_type(report.ids, frozenset[str])
assert_type(report.failures("warning"), tuple[Finding, ...])
assert_type(report.as_dict(), dict[str, Any])
assert_type([finding.fix for finding in report.findings], list[str])
