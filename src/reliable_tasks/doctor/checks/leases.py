"""Leases, records and retentions: whether they outlast what they guard against (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from reliable_tasks.doctor.checks.holding import (
    MARGIN,
    breach,
    redelivery_time,
)
from reliable_tasks.doctor.checks.kit import REDIS, check, visibility_timeout
from reliable_tasks.doctor.facts import Facts, Guarded, Task
from reliable_tasks.doctor.findings import ERROR, INFO, TIME, WARNING, Found
from reliable_tasks.presets.rules import check_horizon

__all__ = ("CHECKS",)

KEPT_WITH_KEY = 86_400.0  # seconds; the default retention
LONG_LEASE = 60.0  # seconds


def _redelivered_after(task: Task, facts: Facts) -> tuple[float, str] | None:
    """Return how late a copy of a message may turn up, in seconds, and what that is made of."""
    settings = facts.settings
    if settings.reads.kind == REDIS:
        hold = 2 * task.hard_limit + MARGIN if task.hard_limit else 0
        held = f"{hold:g} s for which a worker may hold it, and " if hold else ""
        return hold + visibility_timeout(settings), f"{held}the visibility timeout"
    timeout = redelivery_time(task, facts)
    if timeout is not None:
        return 2 * timeout, f"twice the consumer timeout, {timeout:g} s"
    return None


def _guarded(facts: Facts) -> Iterator[tuple[Task, Guarded]]:
    for task in facts.settings.tasks:
        if task.guarded is not None:
            yield task, task.guarded


@check(
    "horizon-short",
    severity=ERROR,
    topic=TIME,
    title="A record is forgotten while a copy of its message may still turn up.",
    why="The copy is a new job to the guard, and takes effect again.",
    fix="app.conf.reliable_tasks_redelivery_horizon = 86_400  # seconds; presets derive it",
)
def horizon(facts: Facts) -> Iterator[Found]:
    """Compare redelivery_horizon with the broker's time-outs, by the presets' rule."""
    for task, guarded in _guarded(facts):
        latest = _redelivered_after(task, facts)
        if latest and (text := breach(check_horizon, guarded.horizon, *latest)):
            yield Found(
                f"{task.name}: {text}",
                fix=f"app.conf.reliable_tasks_redelivery_horizon = {latest[0]:.0f}  # seconds",
            )


@check(
    "lease-long",
    severity=WARNING,
    topic=TIME,
    title="A lease lasts longer than its task can, or than the broker waits.",
    why="A dead execution keeps its job for the whole lease; the copy that the broker delivers "
    "earlier only waits.",
    fix="app.conf.reliable_tasks_lease_seconds = 30  # it is renewed while the task runs",
)
def lease(facts: Facts) -> Iterator[Found]:
    """Compare leases with time limits and with the visibility timeout."""
    settings = facts.settings
    visible = visibility_timeout(settings) if settings.reads.kind == REDIS else None
    for task, guarded in _guarded(facts):
        if task.hard_limit and guarded.lease > task.hard_limit:
            yield Found(
                f"{task.name}: lease_seconds {guarded.lease:g} s, hard time limit "
                f"{task.hard_limit:g} s"
            )
        elif visible is not None and guarded.lease > max(visible, LONG_LEASE):
            yield Found(
                f"{task.name}: lease_seconds {guarded.lease:g} s, visibility_timeout {visible:g} s"
            )


@check(
    "max-run-short",
    severity=ERROR,
    topic=TIME,
    title="A lease is renewed for less time than its task may run.",
    why="The lease ends while the task runs, and another execution takes over: the job runs twice.",
    fix="app.conf.reliable_tasks_max_run = None  # the hard time limit and a margin",
)
def max_run(facts: Facts) -> Iterator[Found]:
    """Compare max_run with time limits."""
    for task, guarded in _guarded(facts):
        if task.hard_limit and guarded.max_run < task.hard_limit:
            yield Found(
                f"{task.name}: max_run {guarded.max_run:g} s, hard time limit {task.hard_limit:g} s"
            )


@check(
    "retention-short",
    severity=WARNING,
    topic=TIME,
    title="A finished job is forgotten before a late duplicate of it can arrive.",
    why="A duplicate whose worker died comes back after the broker's time-out. If the key's "
    "retention is over by then, it runs.",
    fix="@app.task(base=IdempotentTask, idempotency_key=(...), retention=86_400)  # seconds",
)
def retention(facts: Facts) -> Iterator[Found]:
    """Compare the retention of keys with the broker's time-outs."""
    for task, guarded in _guarded(facts):
        kept = KEPT_WITH_KEY if guarded.retention is None else guarded.retention
        timeout = redelivery_time(task, facts)
        if guarded.has_key and timeout is not None and 0 < kept < timeout:
            yield Found(
                f"{task.name}: retention {kept:g} s, redelivery after {timeout:g} s",
                fix="@app.task(base=IdempotentTask, idempotency_key=(...), "
                f"retention={timeout:.0f})  # seconds, or more",
                severity=INFO if guarded.retention is None else "",
            )


CHECKS = (horizon, lease, max_run, retention)
