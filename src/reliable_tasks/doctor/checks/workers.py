"""The workers that answered, and whether they run what is published (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from reliable_tasks.doctor.checks.holding import too_short_without_heartbeat
from reliable_tasks.doctor.checks.kit import (
    DEFAULT_VISIBILITY_TIMEOUT,
    REDIS,
    asked,
    check,
    differences,
    is_elsewhere,
    longest,
    named,
    on_redis,
    own_workers,
    readers,
    visibility_timeout,
    workers_tell,
)
from reliable_tasks.doctor.facts import Facts, Worker
from reliable_tasks.doctor.findings import ERROR, INFO, WARNING, WORKERS, Found
from reliable_tasks.doctor.versions import numbers

__all__ = ("CHECKS",)

LONG = 60.0  # seconds; a task that others should not wait behind
COMPARED = (
    "task_acks_late",
    "task_reject_on_worker_lost",
    "task_soft_time_limit",
    "task_time_limit",
    "worker_prefetch_multiplier",
)


def _here(facts: Facts) -> list[Worker]:
    return [worker for worker in facts.workers or () if not is_elsewhere(worker, facts)]


@check(
    "worker-none",
    severity=ERROR,
    topic=WORKERS,
    title="No worker answers.",
    why="Jobs wait until one is there. A worker that is busy answers too, unless it runs in the "
    "solo pool.",
    fix="celery -A proj worker",
    knows=asked("workers"),
)
def none(facts: Facts) -> Iterator[Found]:
    """Count answers."""
    if facts.workers == ():
        yield Found(f"nobody at {facts.settings.reads.url}")


@check(
    "worker-elsewhere",
    severity=ERROR,
    topic=WORKERS,
    title="A worker reads another place than the app publishes to.",
    why="The jobs wait for ever. Before Celery 5.7 it answers `celery inspect ping` all the same: "
    "that goes by pub/sub, which crosses databases.",
    fix="Give both the same CELERY_BROKER_URL and the same global_keyprefix.",
    knows=asked("workers"),
)
def elsewhere(facts: Facts) -> Iterator[Found]:
    """Compare servers, databases and prefixes."""
    for worker in facts.workers or ():
        for what, theirs, ours in differences(worker, facts):
            yield Found(f"{worker.name}: {what} {theirs!r}, this app {ours!r}")


@check(
    "worker-without-heartbeat",
    severity=ERROR,
    topic=WORKERS,
    title="A worker has no heartbeat, and the visibility timeout relies on one.",
    why="What it holds for longer is delivered again while it runs, and runs twice.",
    fix="setup(app)  # in every app whose workers use this Redis database; or a longer\n"
    'app.conf.broker_transport_options = {"visibility_timeout": 3600}',
    knows=on_redis(workers_tell("has_heartbeat")),
)
def without_heartbeat(facts: Facts) -> Iterator[Found]:
    """Look for a worker without one where the timeout is too short for it."""
    settings = facts.settings
    if settings.reads.kind != REDIS or not settings.has_heartbeat:
        return
    reason = too_short_without_heartbeat(settings)
    if reason is None and not settings.relies_on_heartbeat:
        return
    for worker in _here(facts):
        if worker.has_heartbeat is False:
            yield Found(f"{worker.name}; visibility_timeout is {visibility_timeout(settings):g} s")


@check(
    "worker-settings-differ",
    severity=WARNING,
    topic=WORKERS,
    title="A worker runs with other settings than this app.",
    why="What was checked here is not what runs there. An old deploy, or an environment variable.",
    fix="Deploy the same settings to every process of the app, and restart the worker.",
    knows=workers_tell("conf"),
)
def settings_differ(facts: Facts) -> Iterator[Found]:
    """Compare the settings that jobs depend on."""
    own = facts.settings.conf
    for worker in own_workers(facts):
        for name in COMPARED:
            if worker.conf is None or name not in worker.conf:
                continue
            theirs, ours = worker.conf[name], own.get(name)
            if (theirs or None) != (ours or None):
                yield Found(f"{worker.name}: {name} = {theirs!r}, here {ours!r}")


@check(
    "visibility-timeout-differs",
    severity=WARNING,
    topic=WORKERS,
    title="Workers of one Redis have different visibility timeouts.",
    why="There is one index of what is held for a whole Redis database. The worker with the "
    "shortest timeout gives back the messages of all others.",
    fix="Give the same broker_transport_options to every app that uses this Redis database.",
    knows=on_redis(workers_tell("conf")),
)
def timeouts_differ(facts: Facts) -> Iterator[Found]:
    """Compare the timeout of each worker with the app's."""
    settings = facts.settings
    if settings.reads.kind != REDIS:
        return
    ours = visibility_timeout(settings)
    for worker in _here(facts):
        theirs = _timeout_of(worker.conf)
        if theirs is not None and theirs != ours:
            is_worse = theirs < ours and too_short_without_heartbeat(settings, theirs) is not None
            yield Found(
                f"{worker.name}: {theirs:g} s, here {ours:g} s",
                severity=ERROR if is_worse and not settings.has_heartbeat else "",
            )


def _timeout_of(conf: Mapping[str, Any] | None) -> float | None:
    if conf is None or "broker_transport_options" not in conf:
        return None
    options = conf["broker_transport_options"] or {}
    return float(options.get("visibility_timeout", DEFAULT_VISIBILITY_TIMEOUT))


@check(
    "task-unregistered",
    severity=ERROR,
    topic=WORKERS,
    title="A worker reads a queue, and does not know a task that goes there.",
    why="It drops the message, with a line in its log: the job is lost.",
    fix='app.conf.include = ["proj.tasks"]  # what workers import when they start',
    knows=workers_tell("queues", "tasks"),
)
def unregistered(facts: Facts) -> Iterator[Found]:
    """Compare the tasks of each queue with those of its readers."""
    missing: dict[str, list[str]] = defaultdict(list)
    for task in facts.settings.tasks:
        for worker in readers(task.queue, facts) if task.queue else ():
            if worker.tasks is not None and task.name not in worker.tasks:
                missing[worker.name].append(task.name)
    for worker_name, tasks in sorted(missing.items()):
        yield Found(f"{worker_name} does not know {named(tasks)}")


@check(
    "content-refused",
    severity=ERROR,
    topic=WORKERS,
    title="Workers refuse the content type in which a task is published.",
    why="The message is dropped; only the worker's log says so, and the result stays "
    "PENDING for ever.",
    fix='app.conf.task_serializer = "json"\napp.conf.accept_content = ["json"]',
)
def content(facts: Facts) -> Iterator[Found]:
    """Compare how tasks are written with what is accepted, by this app's workers and by all."""
    refused: dict[tuple[str, str], list[str]] = defaultdict(list)
    for task in facts.settings.tasks:
        asked = readers(task.queue, facts) if task.queue else []
        takes = {each.name: each.accepts for each in asked if each.accepts is not None}
        for who, accepts in (takes or {"this app's workers": facts.settings.accepts}).items():
            if accepts and task.content_type not in accepts:
                refused[who, task.content_type].append(task.name)
    for (who, content_type), tasks in sorted(refused.items()):
        yield Found(f"{who}: {content_type} of {named(tasks)}")


@check(
    "code-differs",
    severity=WARNING,
    topic=WORKERS,
    title="Workers run different code under one task's name.",
    why="Which one a job gets is chance. A deploy that stopped half-way, or an old machine.",
    fix="Deploy again, and restart the workers that run the older code.",
    knows=workers_tell("digests"),
)
def code(facts: Facts) -> Iterator[Found]:
    """Compare digests, where Pythons write code alike: among workers, then with this process."""
    own = {task.name: task.digest for task in facts.settings.tasks}
    here = _python(facts.settings.releases)
    for (python, task), by_digest in sorted(_digests(facts).items()):
        sides = [f"{named(workers)}: {digest}" for digest, workers in sorted(by_digest.items())]
        if len(by_digest) > 1:
            yield Found(f"{task}; {'; '.join(sides)}")
        elif own.get(task) not in (None, *by_digest) and python == here:
            yield Found(
                f"{task}; {sides[0]}; here: {own[task]}",
                title="Workers run other code than this process.",
                severity=INFO,
            )


def _digests(facts: Facts) -> dict[tuple[tuple[int, ...], str], dict[str, list[str]]]:
    """Return by Python and task which workers have which digest."""
    found: dict[tuple[tuple[int, ...], str], dict[str, list[str]]] = {}
    for worker in own_workers(facts):
        python = _python(worker.releases or {})
        for task, digest in (worker.digests or {}).items():
            found.setdefault((python, task), {}).setdefault(digest, []).append(worker.name)
    return found


def _python(releases: Mapping[str, str]) -> tuple[int, ...]:
    return numbers(releases.get("python"))[:2]


@check(
    "prefetch-high",
    severity=WARNING,
    topic=WORKERS,
    title="Workers take more messages than they can run, and tasks are long.",
    why="What was fetched ahead waits behind a long task while other workers idle.",
    fix="app.conf.worker_prefetch_multiplier = 1",
)
def prefetch(facts: Facts) -> Iterator[Found]:
    """Compare the multiplier with the time limits, and with what waits in workers now."""
    settings = facts.settings
    multiplier = settings.conf.get("worker_prefetch_multiplier")
    limit = longest(settings.tasks)
    if multiplier == 0:
        yield Found("worker_prefetch_multiplier = 0: without limit")
    elif multiplier is not None and multiplier > 1 and limit >= LONG:
        yield Found(f"worker_prefetch_multiplier = {multiplier}, tasks of up to {limit:g} s")
    else:
        for worker in own_workers(facts):
            if _keeps_others_waiting(worker):
                yield Found(
                    f"{worker.name}: {worker.reserved} jobs wait behind one of "
                    f"{worker.longest_run:.0f} s"
                )


def _keeps_others_waiting(worker: Worker) -> bool:
    has_more = (worker.prefetch or 0) > (worker.concurrency or 0)
    return has_more and bool(worker.reserved) and (worker.longest_run or 0) >= LONG


CHECKS = (
    none,
    elsewhere,
    without_heartbeat,
    settings_differ,
    timeouts_differ,
    unregistered,
    content,
    code,
    prefetch,
)
