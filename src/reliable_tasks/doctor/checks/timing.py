"""Time-outs, limits and leases: whether they can all hold at once (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

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
from reliable_tasks.doctor.facts import Declared, Facts, Guarded, Settings, Task
from reliable_tasks.doctor.findings import ERROR, INFO, TIME, WARNING, Found
from reliable_tasks.doctor.versions import is_at_least, numbers
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.presets.needs import SHUTDOWN_MARGIN
from reliable_tasks.presets.rules import (
    check_consumer_timeout,
    check_horizon,
    check_visibility_timeout,
)

__all__ = ("CHECKS", "too_short_without_heartbeat")

MARGIN = 60  # seconds for a worker to settle what ended, as in the presets
LEAST_WITH_HEARTBEAT = 5  # seconds
SERVERS_OWN = 1_800.0  # seconds; RabbitMQ's default consumer timeout
KEPT_WITH_KEY = 86_400.0  # seconds; the default retention
LONG_LEASE = 60.0  # seconds
SWEEP = 10  # Kombu's unacked_restore_interval, and its unacked_restore_throttle
PATIENCE = 60.0  # seconds; for a sweep that is late
SKEW = 2.0  # seconds
INTERRUPTS = ("prefork", "processes")


@dataclass(frozen=True, slots=True)
class _Fault:
    """What a rule of the presets says, and whether it must come true."""

    text: str
    is_certain: bool


def _breach(rule: Callable[..., None], *values: Any) -> str | None:
    try:
        rule(*values)
    except ConfigurationError as error:
        return str(error)
    return None


def _late(tasks: Iterable[Task]) -> list[Task]:
    """Return the tasks whose messages are held while they run."""
    return [task for task in tasks if task.acks_late]


def _hold(rule: Callable[..., None], timeout: float, tasks: Iterable[Task]) -> _Fault | None:
    """
    Compare *timeout* with how long a worker may hold messages of *tasks*, by a rule of the presets.

    It is certain if one task alone can last longer. Countdowns come on top; nobody knows those.
    """
    limit = longest(_late(tasks))
    if not limit:
        return None
    made_of = f"the hard time limit {limit:g} s"
    if text := _breach(rule, timeout, limit, made_of):
        return _Fault(text, is_certain=True)
    made_of += f" twice, for the task before it may last as long, and {MARGIN} s"
    if text := _breach(rule, timeout, 2 * limit + MARGIN, made_of):
        return _Fault(text, is_certain=False)
    return None


def too_short_without_heartbeat(settings: Settings, timeout: float | None = None) -> str | None:
    """
    Return why the visibility timeout is too short for a worker that has no heartbeat.

    Args:
        settings: The app's.
        timeout: Another visibility timeout than its own, in seconds.
    """
    seconds = visibility_timeout(settings) if timeout is None else timeout
    fault = _hold(check_visibility_timeout, seconds, settings.tasks)
    return None if fault is None else fault.text


def _severity(fault: _Fault, tasks: Iterable[Task]) -> str:
    """A guarded job that is delivered twice takes effect once."""
    is_harmless = all(task.guarded for task in _late(tasks))
    return ERROR if fault.is_certain and not is_harmless else WARNING


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
    endless = [task.name for task in _late(settings.tasks) if task.hard_limit is None]
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
        if text := _breach(rule, timeout, LEAST_WITH_HEARTBEAT, made_of):
            yield Found(text, severity=WARNING)
    elif fault := _hold(check_visibility_timeout, timeout, settings.tasks):
        yield Found(fault.text, severity=_severity(fault, settings.tasks))


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
        if fault := _hold(check_consumer_timeout, _timeout_in_force(queue, facts), tasks):
            yield Found(f"{queue.name}: {fault.text}", severity=_severity(fault, tasks))


def _timeout_in_force(queue: Declared, facts: Facts) -> float:
    """Return a queue's consumer timeout in seconds, as the server reads it."""
    wanted = _timeout_wanted(queue)
    return _servers_own(facts) if wanted is None or _ignores_argument(facts) else wanted


def _timeout_wanted(queue: Declared) -> float | None:
    wanted = queue.arguments.get("x-consumer-timeout")
    return None if wanted is None else float(wanted) / 1_000


def _ignores_argument(facts: Facts) -> bool:
    rabbit = facts.broker.rabbit if facts.broker is not None else None
    return (
        rabbit is not None
        and bool(numbers(rabbit.version))
        and not is_at_least(rabbit.version, 3, 12)
    )


def _servers_own(facts: Facts) -> float:
    rabbit = facts.broker.rabbit if facts.broker is not None else None
    return (rabbit.consumer_timeout if rabbit is not None else None) or SERVERS_OWN


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
    if not _ignores_argument(facts):
        return
    for queue in facts.settings.declared:
        wanted = _timeout_wanted(queue)
        if wanted is not None and wanted > _servers_own(facts):
            yield Found(
                f"{queue.name}: {wanted:g} s asked for, {_servers_own(facts):g} s in force",
                fix=f"consumer_timeout = {wanted * 1_000:.0f}  # milliseconds, in rabbitmq.conf",
            )


def _redelivered_after(task: Task, facts: Facts) -> tuple[float, str] | None:
    """Return how late a copy of a message may turn up, in seconds, and what that is made of."""
    settings = facts.settings
    if settings.reads.kind == REDIS:
        hold = 2 * task.hard_limit + MARGIN if task.hard_limit else 0
        held = f"{hold:g} s for which a worker may hold it, and " if hold else ""
        return hold + visibility_timeout(settings), f"{held}the visibility timeout"
    if settings.reads.kind == RABBITMQ:
        queue = next((each for each in settings.declared if each.name == task.queue), None)
        timeout = _servers_own(facts) if queue is None else _timeout_in_force(queue, facts)
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
        if latest and (text := _breach(check_horizon, guarded.horizon, *latest)):
            yield Found(f"{task.name}: {text}")


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
        timeout = _redelivery_time(task, facts)
        if guarded.has_key and timeout is not None and 0 < kept < timeout:
            yield Found(
                f"{task.name}: retention {kept:g} s, redelivery after {timeout:g} s",
                severity=INFO if guarded.retention is None else "",
            )


def _redelivery_time(task: Task, facts: Facts) -> float | None:
    """Return after how many seconds the broker delivers what a dead worker held."""
    settings = facts.settings
    if settings.reads.kind == REDIS:
        return visibility_timeout(settings)
    if settings.reads.kind != RABBITMQ:
        return None
    queue = next((each for each in settings.declared if each.name == task.queue), None)
    return _servers_own(facts) if queue is None else _timeout_in_force(queue, facts)


@check(
    "grace-period-short",
    severity=WARNING,
    topic=TIME,
    title="A worker that must end has less time than its tasks, or than its soft shutdown.",
    why="It is killed in the middle. Redis learns of its jobs only at the visibility timeout; what "
    "others got meanwhile runs twice.",
    fix="app.conf.worker_soft_shutdown_timeout = 25  # seconds, 5 less than the grace period; and\n"
    "REMAP_SIGTERM=SIGQUIT in the worker's environment",
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
    horizon,
    lease,
    max_run,
    retention,
    grace,
    threads,
    results,
    overdue,
    skew,
)
