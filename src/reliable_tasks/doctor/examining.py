"""From an app to a report."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

from reliable_tasks.core.durations import Seconds, to_ms
from reliable_tasks.doctor.checks import CHECKS
from reliable_tasks.doctor.facts import Facts, Gap
from reliable_tasks.doctor.findings import SEVERITIES, TOPICS, Check, Finding
from reliable_tasks.doctor.probes import probe
from reliable_tasks.doctor.reading import addresses_of, read
from reliable_tasks.doctor.report.model import Report
from reliable_tasks.doctor.secrets import hidden, secrets_in
from reliable_tasks.errors import ConfigurationError

__all__ = ("examine", "report_of")

UNPRINTABLE = re.compile(r"[^\n\t -~\u00a0-\ud7ff\ue000-\ufffd]")


def examine(
    app: Any,
    *,
    offline: bool = False,
    timeout: Seconds = 2.0,
    grace_period: Seconds | None = None,
    ignore: Collection[str] = (),
) -> Report:
    """
    Say what is wrong with a Celery system; changes nothing, and takes no message.

    Args:
        app: The Celery app, with or without tasks and settings of ours.
        offline: Look at the app alone, and ask no server.
        timeout: Seconds for one answer of a server. The whole takes less than eight times as long.
        grace_period: Seconds from SIGTERM to SIGKILL where workers run, which nobody can be asked.
        ignore: Ids of checks that are not wanted.

    Returns:
        What was found. No password is in it.

    Raises:
        ConfigurationError: An id of *ignore* is unknown, or a duration is none.
    """
    _check_ids(ignore)
    seconds = to_ms("timeout", timeout, least=0.1) / 1_000
    settings = read(app, grace_period=grace_period)
    if offline:
        facts = Facts(settings=settings, gaps=settings.gaps)
    else:
        facts = probe(app, settings, timeout=seconds)
    report = report_of(facts, ignore=ignore, offline=offline)
    return _without(secrets_in(addresses_of(app)), replace(report, app=str(app.main or "app")))


def report_of(facts: Facts, *, ignore: Collection[str] = (), offline: bool = False) -> Report:
    """
    Put *facts* before every check.

    Args:
        facts: What is known.
        ignore: Ids of checks that are not wanted.
        offline: Whether only the settings were looked at.
    """
    findings: list[Finding] = []
    gaps = list(facts.gaps)
    passed: list[Check] = []
    undecided: list[Check] = []
    for check in CHECKS:
        if check.id in ignore:
            continue
        try:
            found = list(check.findings(facts))
            outcome = passed if check.knows(facts) else undecided
        except Exception as error:  # one check must not hide what the others found
            gaps.append(Gap(f"the check {check.id}", repr(error)))
            undecided.append(check)
            continue
        findings.extend(found)
        if not found:
            outcome.append(check)
    return Report(
        app="app",
        findings=tuple(sorted(findings, key=_weight)),
        gaps=tuple(dict.fromkeys(gaps)),
        passed=tuple(passed),
        undecided=tuple(undecided),
        ignored=tuple(check for check in CHECKS if check.id in ignore),
        offline=offline,
        file=facts.settings.file,
    )


def _weight(finding: Finding) -> tuple[int, int]:
    return SEVERITIES.index(finding.severity), TOPICS.index(finding.topic)


def _check_ids(ids: Iterable[str]) -> None:
    known = [check.id for check in CHECKS]
    for each in ids:
        if each not in known:
            near = difflib.get_close_matches(each, known, n=1)
            advice = f" Did you mean {near[0]}?" if near else ""
            raise ConfigurationError(f"ignore: expected the id of a check, got {each!r}.{advice}")


def _without(secrets: Iterator[str], report: Report) -> Report:
    """Blank out passwords, and letters that a terminal or XML cannot take."""
    every = frozenset(secrets)

    def clean(text: str) -> str:
        return UNPRINTABLE.sub("?", hidden(text, every))

    return replace(
        report,
        findings=tuple(
            replace(each, title=clean(each.title), value=clean(each.value), fix=clean(each.fix))
            for each in report.findings
        ),
        gaps=tuple(Gap(clean(gap.what), clean(gap.why)) for gap in report.gaps),
    )
