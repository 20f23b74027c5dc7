"""Whether a worker gets on with its work, by what it says of itself."""

from __future__ import annotations

from time import monotonic
from typing import NamedTuple

from _reliable_tasks.pids import is_taken
from _reliable_tasks.report import INTERVAL, Report, read, report_path, report_paths

__all__ = ("LEAST_WITHIN", "WITHIN", "Verdict", "judge", "look")

WITHIN = 60.0  # seconds; how old a sign of life may be unless somebody says otherwise
LEAST_WITHIN = 5.0  # seconds; two reports and a little more


class Verdict(NamedTuple):
    """Whether a worker is alive, and why."""

    node: str
    is_alive: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.node} is {'alive' if self.is_alive else 'not alive'}: {self.reason}"


def judge(report: Report, now: float, *, within: float, broker_within: float) -> Verdict:
    """
    Decide by *report* whether the worker gets on with its work (pure).

    Args:
        report: Its last one.
        now: The present reading of the clock.
        within: How old, in seconds, a sign of life may be.
        broker_within: How long it may be without its broker.
    """
    fault = _fault(report, now, within, broker_within)
    return Verdict(report.node, not fault, fault or _well(report, now))


def _fault(report: Report, now: float, within: float, broker_within: float) -> str:
    """Return what is wrong, or nothing."""
    if now - report.written > within:
        age = now - report.written
        return f"its last report is {age:.0f} s old, so its main process stands still"
    if report.written > now + INTERVAL:
        return "its last report is of before this machine was started"
    if report.closing:
        return ""
    return _standstill(report, now, within, broker_within) or _jam(report, now, within)


def _standstill(report: Report, now: float, within: float, broker_within: float) -> str:
    """Return what is wrong with the main loop."""
    if report.lost is not None:
        away = now - report.lost
        return f"it has been without its broker for {away:.0f} s" if away > broker_within else ""
    silent = report.written - report.loop  # what came after the report is in the next one
    if silent > within and not report.rests:
        return f"its main loop has not turned for {silent:.0f} s"
    return ""


def _jam(report: Report, now: float, within: float) -> str:
    """Return what is wrong with the pool."""
    if 0 < report.slots <= report.hung:  # an autoscaled pool may have none for a while
        jobs = ", ".join(report.hung_jobs)
        return f"jobs that hang have all of its slots ({report.slots}): {jobs}"
    if report.idle_since is not None and now - report.idle_since > within:
        idle = now - report.idle_since
        return f"{report.waiting} jobs wait for a free slot, and none has begun for {idle:.0f} s"
    return ""


def _well(report: Report, now: float) -> str:
    if report.closing:
        return f"it shuts down, and {report.busy} jobs still run"
    runs = f"{report.busy} of {report.slots} slots run jobs"
    hang = f", of which {report.hung} hang" if report.hung else ""
    if report.lost is not None:
        return f"it has been without its broker for {now - report.lost:.0f} s, {runs}{hang}"
    turned = "a job runs in its main loop" if report.rests else "its main loop turns"
    return f"{turned}, {runs}{hang}"


def look(
    directory: str,
    node: str | None = None,
    *,
    within: float = WITHIN,
    broker_within: float | None = None,
) -> list[Verdict]:
    """
    Judge the workers of this machine by their files.

    Args:
        directory: Where the files are.
        node: Of one worker; None: all whose process exists.
        within: How old, in seconds, a sign of life may be.
        broker_within: How long a worker may be without its broker; as *within* if left out.

    Returns:
        A verdict for *node* or for each worker; at least one.
    """
    broker_within = within if broker_within is None else broker_within
    paths = [report_path(directory, node)] if node else report_paths(directory)
    reports = [report for report in map(read, paths) if report is not None]
    living = [report for report in reports if is_taken(report.pid)]
    if not living:
        return [_nobody(directory, node, reports)]
    return [judge(each, monotonic(), within=within, broker_within=broker_within) for each in living]


def _nobody(directory: str, node: str | None, reports: list[Report]) -> Verdict:
    if reports:
        last = reports[-1]
        return Verdict(last.node, False, f"its process {last.pid} ended without a word")
    return Verdict(node or "no worker", False, f"there is no report of it in {directory}")
