"""From what a guard tells to a log line and a signal."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from reliable_tasks import signals
from reliable_tasks.message import Event

__all__ = ("tell",)

logger = logging.getLogger("reliable_tasks")

_EVENTS = {
    Event.REPLAYED: (logging.INFO, "replayed", signals.task_replayed),
    Event.DEFERRED: (logging.INFO, "deferred", signals.task_deferred),
    Event.DEDUPLICATED: (logging.INFO, "dropped a copy", signals.task_deduplicated),
    Event.SUPPRESSED: (logging.INFO, "was not published again", signals.task_deduplicated),
    Event.LEASE_LOST: (logging.WARNING, "lost its lease", signals.lease_lost),
    Event.QUARANTINED: (logging.ERROR, "quarantined", signals.task_quarantined),
    Event.UNGUARDED: (logging.WARNING, "runs unguarded", None),
}


class Subject(Protocol):
    """What is told of: a delivery, or a job that another call is a duplicate of."""

    @property
    def key(self) -> str:
        """The record."""

    @property
    def job(self) -> str:
        """The task id."""


def tell(event: str, delivery: Subject, details: dict[str, Any]) -> None:
    """Write one structured log line, then send the signal."""
    level, words, signal = _EVENTS[event]
    task: Any = delivery.task  # type: ignore[attr-defined]
    if signal is signals.task_deferred:
        details.setdefault("error", None)
    if logger.isEnabledFor(level):
        data = {"task_name": task.name, "task_id": delivery.job, "key": delivery.key, **details}
        facts = " ".join(f"{name}={value}" for name, value in details.items() if value is not None)
        logger.log(
            level, "Task %s[%s] %s: %s", task.name, delivery.job, words, facts, extra={"data": data}
        )
    if signal is not None:
        signal.send(sender=task, task_id=delivery.job, key=delivery.key, **details)
