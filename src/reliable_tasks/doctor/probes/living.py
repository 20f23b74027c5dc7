"""What changes while one looks: queues, what workers hold, and workers."""

from __future__ import annotations

from functools import partial
from typing import Any

from reliable_tasks.doctor.facts import Gap, Queue, Settings, Unacked, Worker
from reliable_tasks.doctor.probes.bounds import bounded_connection
from reliable_tasks.doctor.probes.queues import first_look
from reliable_tasks.doctor.probes.reach import said_of
from reliable_tasks.doctor.probes.workers import workers_at

__all__ = ("Living", "probe_living")


class Living:
    """
    What is found.

    Attributes:
        queues: None: nobody could look at them.
        workers: None: nobody could be asked.
    """

    def __init__(self) -> None:
        self.queues: tuple[Queue, ...] | None = None
        self.unacked: Unacked | None = None
        self.workers: tuple[Worker, ...] | None = None
        self.gaps: list[Gap] = []


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
    opened = partial(bounded_connection, app, timeout)
    with opened() as connection:
        looks = first_look(app, settings, connection, timeout)
        if looks is None:
            living.gaps.append(Gap("queues", "the doctor cannot look into this kind of broker"))
        else:
            living.gaps += looks.gaps
        _ask_workers(app, settings, server, opened, timeout / 2, living)
        if looks is not None:
            queues, living.unacked = looks.again()
            living.queues = tuple(queues)
    return living


def _ask_workers(
    app: Any, settings: Settings, server: str | None, opened: Any, window: float, living: Living
) -> None:
    try:
        with opened() as connection:
            workers, gaps = workers_at(connection, app, server, window)
        if not workers and settings.broker.kind == "redis":
            from reliable_tasks.doctor.probes.elsewhere import (  # noqa: PLC0415 - imports redis
                workers_elsewhere,
            )

            own = frozenset(task.name for task in settings.tasks)
            workers, gaps = workers_elsewhere(app, opened, own, server, window)
    except Exception as error:  # whatever kombu and its drivers raise
        living.gaps.append(Gap("workers", said_of(error)))
        return
    living.workers, living.gaps = tuple(workers), [*living.gaps, *gaps]
