"""What the checks share (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from reliable_tasks.doctor.facts import Facts, Queue, Settings, Task, Worker
from reliable_tasks.doctor.findings import Check, Found

__all__ = (
    "DEFAULT_VISIBILITY_TIMEOUT",
    "RABBITMQ",
    "REDIS",
    "check",
    "differences",
    "is_at_least",
    "is_elsewhere",
    "longest",
    "named",
    "numbers",
    "queue_named",
    "readers",
    "visibility_timeout",
)

REDIS, RABBITMQ = "redis", "rabbitmq"
DEFAULT_VISIBILITY_TIMEOUT = 3_600.0  # seconds; Kombu's
SHOWN = 5  # names in one line


def check(
    id: str,  # noqa: A002 - what everybody calls it
    *,
    severity: str,
    topic: str,
    title: str,
    why: str,
    fix: str,
    needs: Sequence[str] = (),
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
            needs=tuple(needs),
            look=look,
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
    """Return the longest hard time limit of *tasks* in seconds; 0 if none has one."""
    return max((task.hard_limit or 0 for task in tasks), default=0)


def is_at_least(version: str | None, *least: int) -> bool:
    """Whether a version is known, and *least* or later."""
    found = numbers(version)
    return bool(found) and found >= least


def numbers(version: str | None) -> tuple[int, ...]:
    """Return the numbers of a version: those before anything else."""
    head = re.match(r"\d+(\.\d+)*", version or "")
    return tuple(map(int, head[0].split("."))) if head else ()
