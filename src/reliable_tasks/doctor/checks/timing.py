"""Time-outs and limits: whether they can all hold at once (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from reliable_tasks.doctor.checks.holding import (
    breach,
    hold,
    ignores_argument,
    late,
    servers_own,
    severity_of,
    timeout_in_force,
    timeout_wanted,
)
from reliable_tasks.doctor.checks.kit import (
    RABBITMQ,
    REDIS,
    asked,
    check,
    longest,
    named,
    on_redis,
    rabbit_tells,
    visibility_timeout,
    workers_tell,
)
from reliable_tasks.doctor.facts import Facts, Settings
from reliable_tasks.doctor.findings import ERROR, TIME, WARNING, Found
from reliable_tasks.presets.needs import SHUTDOWN_MARGIN
from reliable_tasks.presets.rules import check_consumer_timeout, check_visibility_timeout

__all__ = ("CHECKS",)

LEAST_WITH_HEARTBEAT = 5  # seconds
SWEEP = 10  # Kombu's unacked_restore_interval, and its unacked_restore_throttle
PATIENCE = 60.0  # seconds; for a sweep that is late
SKEW = 2.0  # seconds
INTERRUPTS = ("prefork", "processes")


def _pool_interrupts(settings: Settings) -> bool:
    return settings.conf.get("worker_pool", "prefork") in INTERRUPTS


@check(
    "time-limit-missing",
    severity=WARNING,
    topic=TIME,
    title="Tasks that are acknowledged late have no hard time limit.",
    why="No time-out of the broker can be long enough for a task that never ends: it is delivered "
    "again while it runs, and a hung one keeps its process.",
    fix="app.conf.task_soft_time_limit = 600  # seconds\napp.conf.task_time_limit = 630",
)
def no_limit(facts: Facts) -> Iterator[Found]:
    """Look for tasks without one, in a pool that could keep it."""
    settings = facts.settings
    if settings.reads.kind not in (REDIS, RABBITMQ) or not _pool_interrupts(settings):
        return
    endless = [task.name for task in late(settings.tasks) if task.hard_limit is None]
    if endless:
        yield Found(named(endless))


@check(
    "time-limits-reversed",
    severity=WARNING,
    topic=TIME,
    title="A hard time limit is not above the soft one.",
    why="In prefork the hard one begins to count when the soft one is over: the task runs for "
    "longer than its limit says. In other pools it ends before it is told, and cannot clean up.",
    fix="app.conf.task_soft_time_limit = 600  # seconds\napp.conf.task_time_limit = 630",
)
def reversed_limits(facts: Facts) -> Iterator[Found]:
    """Compare both limits of each task."""
    for task in facts.settings.tasks:
        if task.soft_limit and task.hard_limit and task.soft_limit >= task.hard_limit:
            yield Found(f"{task.name}: soft {task.soft_limit:g} s, hard {task.hard_limit:g} s")


@check(
    "visibility-timeout-short",
    severity=ERROR,
    topic=TIME,
    title="The visibility timeout is shorter than a worker may hold a message.",
    why="Redis delivers the message again while it waits or runs: the job runs twice, and again "
    "after each further timeout.",
    fix="setup(app, presets.redis(url, longest_task=600, longest_countdown=3600))  # or\n"
    'app.conf.broker_transport_options = {"visibility_timeout": 4920}',
)
def visibility(facts: Facts) -> Iterator[Found]:
    """Compare it with the time limits, by the presets' rule."""
    settings = facts.settings
    if settings.reads.kind != REDIS:
        return
    timeout = visibility_timeout(settings)
    if settings.has_heartbeat:
        rule, made_of = check_visibility_timeout, "with a heartbeat three times as often"
        if text := breach(rule, timeout, LEAST_WITH_HEARTBEAT, made_of):
            yield Found(text, severity=WARNING)
    elif fault := hold(check_visibility_timeout, timeout, settings.tasks):
        yield Found(
            fault.text,
            fix=f"setup(app, presets.redis(url, longest_task={fault.longest:g}))  # or\n"
            'app.conf.broker_transport_options = {"visibility_timeout": '
            f"{fault.enough:.0f}}}  # and the longest countdown",
            severity=severity_of(fault, settings.tasks),
        )


@check(
    "consumer-timeout-short",
    severity=ERROR,
    topic=TIME,
    title="The consumer timeout is shorter than a worker may hold a message.",
    why="RabbitMQ closes the worker's channel and delivers the message again while it runs: the "
    "job runs twice, and again after each further timeout.",
    fix="setup(app, presets.rabbitmq(url, longest_task=3600))  # derives it; or, in milliseconds,\n"
    'app.conf.task_queues["NAME"]["queue_arguments"]["x-consumer-timeout"] = 7_320_000',
)
def consumer(facts: Facts) -> Iterator[Found]:
    """Compare that of each queue with the time limits of its tasks, by the presets' rule."""
    settings = facts.settings
    if settings.reads.kind != RABBITMQ:
        return
    for queue in settings.declared:
        tasks = [task for task in settings.tasks if task.queue == queue.name]
        if fault := hold(check_consumer_timeout, timeout_in_force(queue, facts), tasks):
            yield Found(
                f"{queue.name}: {fault.text}",
                fix=f"setup(app, presets.rabbitmq(url, longest_task={fault.longest:g}))  # or\n"
                f"app.conf.task_queues[{queue.name!r}]['queue_arguments']['x-consumer-timeout'] = "
                f"{fault.enough * 1_000:.0f}",
                severity=severity_of(fault, tasks),
            )


@check(
    "consumer-timeout-ignored",
    severity=WARNING,
    topic=TIME,
    title="RabbitMQ before 3.12 does not read x-consumer-timeout.",
    why="It has its own: 30 minutes, unless rabbitmq.conf says otherwise. What a worker holds for "
    "longer is delivered again.",
    fix="consumer_timeout = 7320000  # milliseconds, in rabbitmq.conf",
    knows=rabbit_tells("version"),
)
def ignored(facts: Facts) -> Iterator[Found]:
    """Look for arguments that want more than the server gives."""
    if not ignores_argument(facts):
        return
    for queue in facts.settings.declared:
        wanted = timeout_wanted(queue)
        if wanted is not None and wanted > servers_own(facts):
            yield Found(
                f"{queue.name}: {wanted:g} s asked for, {servers_own(facts):g} s in force",
                fix=f"consumer_timeout = {wanted * 1_000:.0f}  # milliseconds, in rabbitmq.conf",
            )


@check(
    "grace-period-short",
    severity=WARNING,
    topic=TIME,
    title="A worker that must end has less time than its tasks, or than its soft shutdown.",
    why="It is killed in the middle. Redis learns of its jobs only at the visibility timeout; what "
    "others got meanwhile runs twice.",
    fix="app.conf.worker_soft_shutdown_timeout = 25  # seconds, 5 less than the grace period\n"
    "# and in the worker's environment: REMAP_SIGTERM=SIGQUIT",
)
def grace(facts: Facts) -> Iterator[Found]:
    """Compare the soft shutdown with the grace period and the visibility timeout."""
    settings = facts.settings
    soft = float(settings.conf.get("worker_soft_shutdown_timeout") or 0)
    limit, period = longest(settings.tasks), settings.grace_period
    visible = visibility_timeout(settings)
    if period is not None and soft and soft + SHUTDOWN_MARGIN > period:
        yield Found(
            f"worker_soft_shutdown_timeout {soft:g} s and the {SHUTDOWN_MARGIN} s that a worker "
            f"takes to end, grace period {period:g} s"
        )
    elif period is not None and not soft and limit > period:
        yield Found(f"tasks of up to {limit:g} s, grace period {period:g} s, no soft shutdown")
    if settings.reads.kind == REDIS and not settings.has_heartbeat and soft > visible:
        yield Found(f"worker_soft_shutdown_timeout {soft:g} s, visibility_timeout {visible:g} s")


@check(
    "soft-shutdown-threads",
    severity=WARNING,
    topic=TIME,
    title="A soft shutdown is set for a pool of threads.",
    why="Celery cannot stop threads: its soft shutdown fails on them, and the worker ends with an "
    "error.",
    fix="app.conf.worker_soft_shutdown_timeout = 0  # SIGTERM lets threads finish",
)
def threads(facts: Facts) -> Iterator[Found]:
    """Look at the pool in the settings, and at those of the workers."""
    settings = facts.settings
    soft = settings.conf.get("worker_soft_shutdown_timeout") or 0
    pools = {"the settings": settings.conf.get("worker_pool")}
    pools |= {each.name: each.pool for each in facts.workers or () if each.pool is not None}
    who = [name for name, pool in pools.items() if "thread" in str(pool)]
    if soft and who:
        yield Found(f"{named(who)}: threads, worker_soft_shutdown_timeout = {soft:g}")


@check(
    "results-expire-early",
    severity=WARNING,
    topic=TIME,
    title="A result can expire before the chord or the caller that waits for it.",
    why="The results of a chord's first members are gone when its last one ends.",
    fix="app.conf.result_expires = 86_400  # seconds",
)
def results(facts: Facts) -> Iterator[Found]:
    """Compare result_expires with the time limits."""
    settings = facts.settings
    expires = settings.conf.get("result_expires")
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    limit = longest(settings.tasks)
    if settings.backend is not None and seconds and 0 < seconds < limit:
        yield Found(f"result_expires {seconds:g} s, tasks of up to {limit:g} s")


@check(
    "unacked-overdue",
    severity=ERROR,
    topic=TIME,
    title="Messages are held for longer than the visibility timeout, and nobody gives them back.",
    why="Their worker is gone or wedged, and no worker that is there looks for them: the jobs "
    "are stuck.",
    fix="celery -A proj worker  # with this very broker, database and prefix",
    knows=on_redis(asked("unacked")),
)
def overdue(facts: Facts) -> Iterator[Found]:
    """Compare the oldest word of a worker about what it holds with the visibility timeout."""
    unacked, settings = facts.unacked, facts.settings
    if unacked is None or unacked.silent_for is None or facts.workers == ():
        return
    options = settings.transport_options
    sweep = float(options.get("unacked_restore_interval", SWEEP)) * float(
        options.get("unacked_restore_throttle", SWEEP)
    )
    limit = visibility_timeout(settings) + sweep + PATIENCE
    if unacked.silent_for > limit:
        yield Found(
            f"{unacked.count} messages held, the oldest silent for {unacked.silent_for:.0f} s, "
            f"visibility_timeout {visibility_timeout(settings):g} s"
        )


@check(
    "clock-skew",
    severity=WARNING,
    topic=TIME,
    title="The clocks of the machines disagree.",
    why="Countdowns and expiry are off by as much. Kombu compares the times of different machines: "
    "a clock that is ahead by the visibility timeout gives back what others still hold.",
    fix="Run chrony or another NTP client on every machine.",
    knows=workers_tell("clock_ahead"),
)
def skew(facts: Facts) -> Iterator[Found]:
    """Compare the clocks of workers and servers with this machine's."""
    ahead = dict(_clocks(facts))
    fast, slow = max(ahead, key=ahead.__getitem__), min(ahead, key=ahead.__getitem__)
    apart = ahead[fast] - ahead[slow]
    is_redis = facts.settings.reads.kind == REDIS
    if apart > SKEW:
        yield Found(
            f"{fast} is {apart:.1f} s ahead of {slow}",
            severity=ERROR if is_redis and apart > visibility_timeout(facts.settings) / 2 else "",
        )


def _clocks(facts: Facts) -> Iterator[tuple[str, float]]:
    yield "this machine", 0.0
    for worker in facts.workers or ():
        if worker.clock_ahead is not None:
            yield worker.name, worker.clock_ahead
    for what, link in (("the broker", facts.broker), ("the store", facts.store)):
        server = link and (link.redis or link.rabbit)
        if server and server.clock_ahead is not None:
            yield what, server.clock_ahead


CHECKS = (
    no_limit,
    reversed_limits,
    visibility,
    consumer,
    ignored,
    grace,
    threads,
    results,
    overdue,
    skew,
)
