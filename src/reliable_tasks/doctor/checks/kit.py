"""What the checks share (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from reliable_tasks.doctor.facts import Facts, Queue, Settings, Task, Worker
from reliable_tasks.doctor.findings import Check, Found, Knows

__all__ = (
    "DEFAULT_VISIBILITY_TIMEOUT",
    "RABBITMQ",
    "REDIS",
    "always",
    "asked",
    "check",
    "differences",
    "is_elsewhere",
    "longest",
    "named",
    "on_rabbitmq",
    "on_redis",
    "own_workers",
    "queue_named",
    "rabbit_tells",
    "readers",
    "servers_tell",
    "visibility_timeout",
    "workers_tell",
)

REDIS, RABBITMQ = "redis", "rabbitmq"
DEFAULT_VISIBILITY_TIMEOUT = 3_600.0  # seconds; Kombu's
SHOWN = 5  # names in one line


def always(facts: Facts) -> bool:  # noqa: ARG001 - one of those that know
    """Whether the settings, which are always known, are enough: they are."""
    return True


def asked(*parts: str) -> Knows:
    """Know if *parts* of the facts are there."""
    return lambda facts: all(getattr(facts, part) is not None for part in parts)


def workers_tell(*fields: str) -> Knows:
    """Know if workers could be asked, and each of them told *fields*."""
    return lambda facts: (
        facts.workers is not None
        and all(getattr(worker, field) is not None for worker in facts.workers for field in fields)
    )


def servers_tell(*fields: str) -> Knows:
    """Know if each Redis that the app uses told *fields*."""

    def knows(facts: Facts) -> bool:
        settings = facts.settings
        used = [
            link.redis if link is not None else None
            for place, link in (
                (settings.broker, facts.broker),
                (settings.backend, facts.backend),
                (settings.store, facts.store),
            )
            if place is not None and place.kind == REDIS
        ]
        return all(
            server is not None and getattr(server, field) is not None
            for server in used
            for field in fields
        )

    return knows


def on_redis(knows: Knows) -> Knows:
    """Know what *knows* does; on another broker there is nothing to know."""
    return lambda facts: facts.settings.reads.kind != REDIS or knows(facts)


def on_rabbitmq(knows: Knows) -> Knows:
    """Know what *knows* does; on another broker there is nothing to know."""
    return lambda facts: facts.settings.reads.kind != RABBITMQ or knows(facts)


def rabbit_tells(field: str) -> Knows:
    """Know if RabbitMQ told *field*."""

    def knows(facts: Facts) -> bool:
        rabbit = facts.broker.rabbit if facts.broker is not None else None
        return rabbit is not None and getattr(rabbit, field) is not None

    return on_rabbitmq(knows)


def check(
    id: str,  # noqa: A002 - what everybody calls it
    *,
    severity: str,
    topic: str,
    title: str,
    why: str,
    fix: str,
    knows: Knows = always,
) -> Callable[[Callable[[Facts], Iterable[Found]]], Check]:
    """Make a `Check` of the function that looks; the arguments are its."""

    def made(look: Callable[[Facts], Iterable[Found]]) -> Check:
        return Check(
            id=id,
            severity=severity,
            topic=topic,
            title=title,
            why=why,
            fix=fix,
            look=look,
            knows=knows,
        )

    return made


def named(names: Iterable[str]) -> str:
    """Return some of *names*, and how many more there are."""
    every = sorted(set(names))
    more = len(every) - SHOWN
    return ", ".join(every[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def visibility_timeout(settings: Settings) -> float:
    """Return the visibility timeout of a Redis broker in seconds."""
    given = settings.transport_options.get("visibility_timeout")
    return DEFAULT_VISIBILITY_TIMEOUT if given is None else float(given)


def is_elsewhere(worker: Worker, facts: Facts) -> bool:
    """Whether a worker reads another server, database or prefix than the app's messages go to."""
    return bool(differences(worker, facts))


def differences(worker: Worker, facts: Facts) -> list[tuple[str, str, str]]:
    """Return what differs between where a worker reads and the app publishes: both sides."""
    place = facts.settings.broker
    redis = facts.broker.redis if facts.broker is not None else None
    pairs = [
        ("database", worker.database, place.database),
        ("key prefix", worker.prefix, place.prefix),
        ("server", worker.server, redis.identity if redis is not None else None),
    ]
    return [
        (what, theirs, ours)
        for what, theirs, ours in pairs
        if theirs is not None and ours is not None and theirs != ours
    ]


def own_workers(facts: Facts) -> list[Worker]:
    """Return the workers here that this app's jobs can come to; others share a broker with it."""
    settings = facts.settings
    tasks = frozenset(task.name for task in settings.tasks)
    queues = {task.queue for task in settings.tasks}
    queues |= {entry.queue for entry in settings.entries}
    queues |= {declared.name for declared in settings.declared}
    return [
        worker
        for worker in facts.workers or ()
        if not is_elsewhere(worker, facts)
        and (
            worker.queues is None
            or bool(queues & worker.queues)
            or bool(tasks & (worker.tasks or frozenset()))
        )
    ]


def readers(queue: str, facts: Facts) -> list[Worker]:
    """Return the workers that say that they read *queue*, here and not elsewhere."""
    return [
        worker
        for worker in facts.workers or ()
        if queue in (worker.queues or ()) and not is_elsewhere(worker, facts)
    ]


def queue_named(name: str, facts: Facts) -> Queue | None:
    """Return what the broker says of a queue, if it was asked."""
    return next((queue for queue in facts.queues or () if queue.name == name), None)


def longest(tasks: Iterable[Task]) -> float:
    """Return how long one of *tasks* may run, in seconds; 0 if none has a hard time limit."""
    return max(
        # a hard limit begins to count when the soft one is over
        (max(task.hard_limit, task.soft_limit or 0) for task in tasks if task.hard_limit),
        default=0,
    )
