"""From what a guard tells to a log line and a signal."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple, Protocol

from reliable_tasks import signals
from reliable_tasks.message import Event

__all__ = (
    "DEAD_LETTERED",
    "GIVEN_UP",
    "LETTER_DROPPED",
    "PUT_OFF",
    "RETRYING",
    "WAITING",
    "Kind",
    "is_heard",
    "report",
    "tell",
)

logger = logging.getLogger("reliable_tasks")


class Kind(NamedTuple):
    """How one kind of event is told."""

    level: int
    words: str
    signal: Any  # None: no signal, a log line only


_EVENTS = {
    Event.REPLAYED: Kind(logging.INFO, "replayed", signals.task_replayed),
    Event.DEFERRED: Kind(logging.INFO, "deferred", signals.task_deferred),
    Event.DEDUPLICATED: Kind(logging.INFO, "dropped a copy", signals.task_deduplicated),
    Event.SUPPRESSED: Kind(logging.INFO, "was not published again", signals.task_deduplicated),
    Event.LEASE_LOST: Kind(logging.WARNING, "lost its lease", signals.lease_lost),
    Event.QUARANTINED: Kind(logging.ERROR, "quarantined", signals.task_quarantined),
    Event.UNGUARDED: Kind(logging.WARNING, "runs unguarded", None),
    Event.LETTER_DROPPED: Kind(
        logging.WARNING, "took the place of a dead letter", signals.dead_letter_dropped
    ),
}

_OF_EACH = {Event.CLAIMED: signals.task_claimed, Event.SETTLED: signals.task_settled}
"""What every execution would tell: no log line, and a signal only if somebody listens."""


RETRYING = Kind(logging.INFO, "is tried again", signals.task_retrying)
PUT_OFF = Kind(logging.INFO, "is put off", signals.task_retrying)
GIVEN_UP = Kind(logging.WARNING, "is not tried again", signals.task_retrying)
WAITING = Kind(logging.INFO, "is not due yet", None)
LETTER_DROPPED = _EVENTS[Event.LETTER_DROPPED]
DEAD_LETTERED = Kind(logging.WARNING, "is among the dead letters", signals.task_dead_lettered)


class Subject(Protocol):
    """What is told of: a delivery, or a job that another call is a duplicate of."""

    @property
    def key(self) -> str:
        """The record."""

    @property
    def job(self) -> str:
        """The task id."""


def tell(event: str, delivery: Subject, details: dict[str, Any]) -> None:
    """Write one structured log line of what a guard did, then send the signal."""
    if event in _OF_EACH:
        task: Any = delivery.task  # type: ignore[attr-defined]
        _OF_EACH[event].send(sender=task, task_id=delivery.job, key=delivery.key, **details)
        return
    kind = _EVENTS[event]
    if kind.signal is signals.task_deferred:
        details.setdefault("error", None)
    task = delivery.task  # type: ignore[attr-defined]
    report(kind, task, delivery.job, details, key=delivery.key)


def is_heard(event: str) -> bool:
    """Whether anybody wants to be told of an event that comes with every execution."""
    return bool(_OF_EACH[event].receivers)


def report(kind: Kind, task: Any, job: str, details: dict[str, Any], **known: Any) -> None:
    """
    Write one structured log line, then send the signal.

    Args:
        kind: How it is told.
        task: The signal's sender.
        job: The task id.
        details: What the line says; None for a field that means nothing here.
        known: What the signal and the record's data have besides.
    """
    if logger.isEnabledFor(kind.level):
        data = {"task_name": task.name, "task_id": job, **known, **details}
        facts = " ".join(f"{name}={value}" for name, value in details.items() if value is not None)
        logger.log(
            kind.level, "Task %s[%s] %s: %s", task.name, job, kind.words, facts,
            extra={"data": data},
        )  # fmt: skip
    if kind.signal is not None:
        kind.signal.send(sender=task, task_id=job, **known, **details)
