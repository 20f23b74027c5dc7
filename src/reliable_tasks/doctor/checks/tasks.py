"""How tasks are declared (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from reliable_tasks.doctor.checks.kit import RABBITMQ, check, named, own_workers
from reliable_tasks.doctor.facts import Facts, Settings, Task
from reliable_tasks.doctor.findings import ERROR, INFO, TASKS, WARNING, Found

__all__ = ("CHECKS",)

PICKLE = "application/x-python-serialize"
OFTEN = 1.0  # redeliveries each second; a deploy or a death makes a few, once


@check(
    "acks-late-missing",
    severity=WARNING,
    topic=TASKS,
    title="Messages are acknowledged before their tasks run.",
    why="A worker that dies takes its jobs with it: a deploy that kills, a node that goes, a "
    "process out of memory.",
    fix="app.conf.task_acks_late = True  # a job can then run twice. To take effect once:\n"
    "@app.task(base=IdempotentTask)",
)
def early(facts: Facts) -> Iterator[Found]:
    """Look for tasks that are acknowledged early."""
    tasks = [task.name for task in facts.settings.tasks if not task.acks_late]
    if tasks:
        yield Found(named(tasks))


def _knows_redeliveries(facts: Facts) -> bool:
    told = [queue.redeliveries is not None for queue in facts.queues or () if queue.exists]
    return facts.unacked is not None or (facts.queues is not None and all(told))


@check(
    "redelivery-endless",
    severity=WARNING,
    topic=TASKS,
    title="A job can be delivered again without end.",
    why="A job that kills its process, or runs out of its time, comes back each time: 20 times in "
    "12 s, and nothing else runs.",
    fix="@app.task(base=IdempotentTask)  # counts deaths, and quarantines after three; or\n"
    "app.conf.task_reject_on_worker_lost = False\napp.conf.task_acks_on_failure_or_timeout = True",
    knows=_knows_redeliveries,
)
def endless(facts: Facts) -> Iterator[Found]:
    """Look for redelivery that nobody counts, in the settings and at the broker."""
    settings = facts.settings
    late = [task for task in settings.tasks if task.acks_late]
    uncounted = [each.name for each in late if each.reject_on_worker_lost and not each.guarded]
    bounded = {each.name for each in late if _is_bounded(each, settings)}
    if lost := set(uncounted) - bounded:
        yield Found(f"reject_on_worker_lost: {named(lost)}")
    if timed := {each.name for each in late if not each.acks_on_timeout and each.hard_limit}:
        yield Found(f"not acknowledged after a time limit: {named(timed)}")
    for queue in facts.queues or ():
        if (queue.redeliveries or 0) >= OFTEN:
            yield Found(
                f"{queue.name}: {queue.redeliveries:.1f} redeliveries each second",
                title="A job is delivered again and again.",
                severity=ERROR,
            )
    if facts.unacked is not None and facts.unacked.redelivered:
        yield Found(
            f"{facts.unacked.redelivered} of {facts.unacked.count}: {named(facts.unacked.tasks)}",
            title="Messages that workers hold now were delivered before.",
            severity=INFO,
        )


def _is_bounded(task: Task, settings: Settings) -> bool:
    return any(
        queue.name == task.queue and queue.is_quorum and "x-delivery-limit" in queue.arguments
        for queue in settings.declared
    )


@check(
    "retry-delay-fraction",
    severity=ERROR,
    topic=TASKS,
    title="A retry of less than a second is lost.",
    why="Delayed delivery of quorum queues counts whole seconds. RabbitMQ refuses less than one, "
    "and Celery drops a job whose retry was refused, with one line in the log.",
    fix="@app.task(default_retry_delay=1)  # or base=IdempotentTask, or @retry_task: they round up",
)
def fraction(facts: Facts) -> Iterator[Found]:
    """Look for plain tasks with such a default, in an app with quorum queues."""
    settings = facts.settings
    has_quorum = any(queue.is_quorum for queue in settings.declared)
    if settings.broker.kind != RABBITMQ or not has_quorum:
        return
    for task in settings.tasks:
        if not task.guarded and task.retry_delay is not None and 0 < task.retry_delay < 1:
            yield Found(f"{task.name}: default_retry_delay = {task.retry_delay:g}")


@check(
    "pickle-accepted",
    severity=WARNING,
    topic=TASKS,
    title="Workers unpickle what they are sent.",
    why="Whoever can write to the broker runs code in them.",
    fix='app.conf.task_serializer = "json"\napp.conf.accept_content = ["json"]',
)
def pickle(facts: Facts) -> Iterator[Found]:
    """Look at accept_content, of the app and of the workers."""
    if PICKLE in facts.settings.accepts:
        yield Found("accept_content has pickle")
    else:
        who = [each.name for each in own_workers(facts) if PICKLE in (each.accepts or ())]
        if who:
            yield Found(f"accept_content has pickle: {named(who)}")


@check(
    "eager",
    severity=WARNING,
    topic=TASKS,
    title="Tasks run where they are called.",
    why="Nothing reaches a queue: a request waits for its tasks, and they die with it.",
    fix="app.conf.task_always_eager = False  # leave it to tests",
)
def eager(facts: Facts) -> Iterator[Found]:
    """Look at task_always_eager."""
    if facts.settings.conf.get("task_always_eager"):
        yield Found("task_always_eager = True")


CHECKS = (early, endless, fraction, pickle, eager)
