"""The metrics of this process, and the signals that move them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Any
from weakref import WeakSet

from celery import signals as celery_signals
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from reliable_tasks import signals
from reliable_tasks.retry.attempts import Reason
from reliable_tasks.retry.declared import plans_of
from reliable_tasks.task import IdempotentTask

__all__ = ("PUBLISHED", "Metrics", "seconds_waited")

PUBLISHED = "reliable_tasks_published"
"""Header of a message: when it was published, in seconds since 1970 by the publisher's clock."""

OUTSIDE = "(unknown)"  # the label of what no registered task has done: its name may be anything

DEFERRED = ("turn", "store_down")
ENDED = ("done", "failed")
GIVEN_UP = tuple(str(reason) for reason in Reason if reason is not Reason.UNRETRYABLE)

GUARD_BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
WAIT_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0)

_UID = "reliable_tasks.contrib.prometheus"


class Metrics:
    """
    What the signals of this process come to.

    Labels are names of registered tasks and the few words of the signals, never keys or ids.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"reliable_tasks_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, label: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(
                f"reliable_tasks_{name}", text, (label,), buckets=buckets, registry=registry
            )

        self.claims = counter(
            "claims", "Deliveries of guarded tasks, by the store's answer.", "task", "answer"
        )
        self.outcomes = counter(
            "outcomes", "Outcomes of executions that the store has noted.", "task", "state"
        )
        self.replays = counter(
            "replays", "Duplicates that were answered with a stored outcome.", "task", "state"
        )
        self.deferrals = counter(
            "deferrals", "Deliveries that were put off, and why.", "task", "reason"
        )
        self.duplicates = counter(
            "duplicates", "Copies that were not run and calls not published.", "task", "reason"
        )
        self.lost_leases = counter(
            "lost_leases", "Executions that learned that another has taken over.", "task"
        )
        self.quarantines = counter(
            "quarantines", "Deliveries of jobs that had ended their process too often.", "task"
        )
        self.retries = counter("retries", "Attempts that are followed by another.", "task")
        self.put_off = counter("put_off", "Attempts that an open breaker put off.", "task")
        self.given_up = counter(
            "given_up", "Jobs of retried tasks that are not tried again.", "task", "reason"
        )
        self.dead_letters = counter(
            "dead_letters", "Messages of jobs that were given up, and are kept.", "task", "reason"
        )
        self.guard_seconds = histogram(
            "guard_seconds", "How long the store took to answer.", "question", GUARD_BUCKETS
        )
        self.queue_wait_seconds = histogram(
            "queue_wait_seconds",
            "From the publication of a message, or its ETA, to its start.",
            "task",
            WAIT_BUCKETS,
        )
        self.running_leases = Gauge(
            "reliable_tasks_running_leases",
            "Executions that hold a lease.",
            ("task",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.letters_dropped = counter(
            "dead_letters_dropped", "Dead letters that gave way: too many, or too old.", "task"
        )
        self.registry = registry
        self._running: WeakSet[Any] = WeakSet()  # requests
        # A third of the time goes into finding the series, so that is done once for each.
        self._of = cache(lambda family, *labels: family.labels(*labels))

    def begin(self, tasks: Iterable[Any]) -> None:
        """
        Have a zero where an alert must see the first event: a series that begins at 1 has no rise.

        Args:
            tasks: All of an app.
        """
        for task in tasks:
            if isinstance(task, IdempotentTask):
                for family in (self.lost_leases, self.quarantines, self.letters_dropped):
                    family.labels(task.name)
                for reason in DEFERRED:
                    self.deferrals.labels(task.name, reason)
                for state in ENDED:
                    self.replays.labels(task.name, state)
            if any(True for _ in plans_of(type(task))):
                self.retries.labels(task.name)
                self.put_off.labels(task.name)
                for reason in GIVEN_UP:
                    self.given_up.labels(task.name, reason)
                    self.dead_letters.labels(task.name, reason)

    def connect(self) -> None:
        """Listen to the signals of this process; a second time changes nothing."""
        for signal, receiver in (
            (signals.task_claimed, self._on_claimed),
            (signals.task_settled, self._on_settled),
            (signals.task_replayed, self._on_replayed),
            (signals.task_deferred, self._on_deferred),
            (signals.task_deduplicated, self._on_deduplicated),
            (signals.lease_lost, self._on_lease_lost),
            (signals.task_quarantined, self._on_quarantined),
            (signals.task_retrying, self._on_retrying),
            (signals.task_dead_lettered, self._on_dead_lettered),
            (signals.dead_letter_dropped, self._on_letter_dropped),
            (celery_signals.before_task_publish, stamp),
            (celery_signals.task_prerun, self._on_prerun),
            (celery_signals.task_postrun, self._on_postrun),
        ):
            signal.connect(receiver, weak=False, dispatch_uid=f"{_UID}.{id(self)}")

    def _on_claimed(self, sender: Any, answer: str, seconds: float, **_: Any) -> None:
        self._of(self.claims, sender.name, answer).inc()
        self._of(self.guard_seconds, "claim").observe(seconds)
        if answer == "granted":
            self._running.add(sender.request)
            self._of(self.running_leases, sender.name).inc()

    def _on_settled(self, sender: Any, state: str, seconds: float, **_: Any) -> None:
        self._of(self.outcomes, sender.name, state).inc()
        self._of(self.guard_seconds, "settle").observe(seconds)

    def _on_replayed(self, sender: Any, state: str, **_: Any) -> None:
        self._of(self.replays, sender.name, state).inc()

    def _on_deferred(self, sender: Any, error: Any, **_: Any) -> None:
        self._of(self.deferrals, sender.name, "turn" if error is None else "store_down").inc()

    def _on_deduplicated(self, sender: Any, reason: str, **_: Any) -> None:
        self._of(self.duplicates, sender.name, reason).inc()

    def _on_lease_lost(self, sender: Any, **_: Any) -> None:
        self._of(self.lost_leases, sender.name).inc()

    def _on_quarantined(self, sender: Any, **_: Any) -> None:
        self._of(self.quarantines, sender.name).inc()

    def _on_retrying(self, sender: Any, wait: float | None, reason: str | None, **_: Any) -> None:
        if wait is None:
            self._of(self.given_up, sender.name, reason).inc()
        elif reason is None:
            self._of(self.retries, sender.name).inc()
        else:
            self._of(self.put_off, sender.name).inc()

    def _on_dead_lettered(self, sender: Any, reason: str, **_: Any) -> None:
        self._of(self.dead_letters, getattr(sender, "name", OUTSIDE), reason).inc()

    def _on_letter_dropped(self, sender: Any, **_: Any) -> None:
        self._of(self.letters_dropped, getattr(sender, "name", OUTSIDE)).inc()

    def _on_prerun(self, sender: Any, **_: Any) -> None:
        waited = seconds_waited(sender.request, time.time())
        if waited is not None:
            self._of(self.queue_wait_seconds, sender.name).observe(waited)

    def _on_postrun(self, sender: Any, **_: Any) -> None:
        if sender.request in self._running:
            self._running.discard(sender.request)
            self._of(self.running_leases, sender.name).dec()


def stamp(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Write into a message when it is published; a successor is published anew."""
    if headers is not None:
        headers[PUBLISHED] = time.time()


def seconds_waited(request: Any, now: float) -> float | None:
    """
    Return how long a delivery has waited to be run.

    Args:
        request: Its `celery.app.task.Context`.
        now: Seconds since 1970.

    Returns:
        Seconds since it was published, or since its ETA; 0 for a publisher whose clock is ahead;
        None if its publisher has not said when.
    """
    published = (request.headers or {}).get(PUBLISHED)
    if not isinstance(published, int | float):
        return None
    due = datetime.fromisoformat(request.eta).timestamp() if request.eta else 0.0
    return max(0.0, now - max(published, due))
