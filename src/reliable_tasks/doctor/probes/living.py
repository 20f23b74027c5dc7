"""What changes while one looks: queues, what workers hold, and workers."""

from __future__ import annotations

from functools import partial
from time import sleep
from typing import Any

from reliable_tasks.doctor.facts import Gap, Queue, Settings, Unacked, Worker
from reliable_tasks.doctor.probes.bounded import ask
from reliable_tasks.doctor.probes.bounds import bounded_connection
from reliable_tasks.doctor.probes.queues import first_look
from reliable_tasks.doctor.probes.reach import said_of
from reliable_tasks.doctor.probes.workers import workers_at

__all__ = ("Living", "probe_living")

FOR_WORKERS = 2.5  # times the time for one answer


class Living:
    """
    What is found.

    Attributes:
        queues: None: nobody could look at them.
        workers: None: nobody could be asked.
        alarms: Of RabbitMQ; None: nobody told.
        is_managed: Whether its management interface told.
    """

    def __init__(self) -> None:
        self.queues: tuple[Queue, ...] | None = None
        self.unacked: Unacked | None = None
        self.workers: tuple[Worker, ...] | None = None
        self.alarms: tuple[str, ...] | None = None
        self.is_managed = False
        self.gaps: list[Gap] = []

    def note_blocked(self, reason: str) -> None:
        """Note why RabbitMQ takes no messages, in its own words: ``low on memory``."""
        self.alarms = tuple({*(self.alarms or ()), reason.removeprefix("low on ")})


def probe_living(
    app: Any, settings: Settings, server: str | None, timeout: float, living: Living
) -> Living:
    """
    Ask the workers, between two looks at the queues.

    Args:
        app: The Celery app, whose broker can be used.
        settings: What it says of itself.
        server: `RedisServer.identity` of its broker.
        timeout: Seconds for each answer of the broker; workers have half as long.
        living: Where what is found goes, part by part.
    """
    with bounded_connection(app, timeout) as connection:
        looks = first_look(app, settings, connection, timeout)
        if looks is None:
            living.gaps.append(Gap("queues", "the doctor cannot look into this kind of broker"))
        else:
            living.gaps += looks.gaps
            living.alarms = looks.alarms
            living.is_managed = looks.alarms is not None
        _try_workers(app, settings, server, timeout, living)
        if looks is not None:
            queues, living.unacked = looks.again()
            living.queues = tuple(queues)
    return living


def _try_workers(
    app: Any, settings: Settings, server: str | None, timeout: float, living: Living
) -> None:
    if not app.conf.worker_enable_remote_control:
        living.gaps.append(Gap("workers", "worker_enable_remote_control is off: none can be asked"))
        sleep(timeout / 2)  # between the two looks at the queues
        return
    question = partial(_ask_workers, app, settings, server, timeout, living)
    try:
        ask(question, seconds=FOR_WORKERS * timeout)
    except Exception as error:  # whatever kombu and its drivers raise
        living.gaps.append(Gap("workers", said_of(error)))


def _ask_workers(
    app: Any, settings: Settings, server: str | None, timeout: float, living: Living
) -> None:
    opened = partial(bounded_connection, app, timeout)
    window = timeout / 2
    with opened(on_blocked=living.note_blocked) as connection:
        workers, gaps = workers_at(connection, app, server, window)
    if not workers and settings.broker.kind == "redis":
        from reliable_tasks.doctor.probes.elsewhere import (  # noqa: PLC0415 - imports redis
            workers_elsewhere,
        )

        own = frozenset(task.name for task in settings.tasks)
        workers, gaps = workers_elsewhere(app, opened, own, server, window)
    living.workers, living.gaps = tuple(workers), [*living.gaps, *gaps]
