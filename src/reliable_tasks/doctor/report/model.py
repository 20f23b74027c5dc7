"""What an examination has found (pure)."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from reliable_tasks.doctor.facts import Gap
from reliable_tasks.doctor.findings import SEVERITIES, Check, Finding

__all__ = ("Report",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """
    What `examine` has found.

    Attributes:
        app: The app's name.
        findings: What is wrong, the worst first.
        gaps: What could not be looked at, and why.
        passed: Checks that found nothing.
        undecided: Checks for which something could not be known.
        ignored: Checks that were not wanted.
        offline: Whether only the settings were looked at.
        file: Where the app is, relative to the working directory, if that is known.
    """

    app: str
    findings: tuple[Finding, ...]
    gaps: tuple[Gap, ...] = ()
    passed: tuple[Check, ...] = field(default=(), repr=False)
    undecided: tuple[Check, ...] = field(default=(), repr=False)
    ignored: tuple[Check, ...] = field(default=(), repr=False)
    offline: bool = False
    file: str | None = None

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all findings."""
        return frozenset(finding.id for finding in self.findings)

    def count(self, severity: str) -> int:
        """Return how many findings are of a severity."""
        return Counter(finding.severity for finding in self.findings)[severity]

    def failures(self, fail_on: str = "error") -> tuple[Finding, ...]:
        """Return the findings that are at least as bad as *fail_on*."""
        bad = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
        return tuple(finding for finding in self.findings if finding.severity in bad)

    def as_dict(self) -> dict[str, Any]:
        """Return it in the types of JSON."""
        return {
            "app": self.app,
            "offline": self.offline,
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "findings": [asdict(finding) for finding in self.findings],
            "not_examined": [asdict(gap) for gap in self.gaps],
            "passed": [check.id for check in self.passed],
            "undecided": [check.id for check in self.undecided],
            "ignored": [check.id for check in self.ignored],
        }
