"""The queues of the app's broker, looked at twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from reliable_tasks.broker.view import BrokerUnseen
from reliable_tasks.broker.view.management import Managed, Management, address_of
from reliable_tasks.doctor.facts import Gap, Queue, Settings, Unacked
from reliable_tasks.doctor.probes.rabbit_queues import Counted, RabbitQueues

__all__ = ("Looks", "first_look")

CELERYS_OWN = re.compile(r"celery_delayed_|celeryev|\.celery\.pidbox$")
MOST = 500  # queues that nobody declares here
LONGEST_WATCH = 1.2  # seconds; a heartbeat beats each 1.25 s at most
UNLISTED = "queues that the app does not declare"


class Looks(Protocol):
    """What a first look has seen."""

    gaps: list[Gap]
    alarms: tuple[str, ...] | None  # of RabbitMQ, where its management interface tells

    def again(self) -> tuple[list[Queue], Unacked | None]:
        """Look again, and return how the queues are now and what changed meanwhile."""
        ...


def first_look(app: Any, settings: Settings, connection: Any, timeout: float) -> Looks | None:
    """
    Look at the queues; None for a broker that the doctor cannot look into.

    Args:
        app: The Celery app.
        settings: What it says of itself.
        connection: Kombu's, open.
        timeout: Seconds for each answer.
    """
    names = _names(settings)
    driver = connection.transport.driver_type
    if driver == "redis":
        return _RedisLooks(connection, names)
    if driver == "amqp":
        return _RabbitLooks(app, connection, names, timeout)
    return None


def _names(settings: Settings) -> list[str]:
    """Return every queue that the app declares, or sends to."""
    used = {each.queue for each in settings.tasks} | {each.queue for each in settings.entries}
    return sorted({*(each.name for each in settings.declared), *(name for name in used if name)})


class _RedisLooks:
    alarms: tuple[str, ...] | None = None

    def __init__(self, connection: Any, names: list[str]) -> None:
        from reliable_tasks.doctor.probes.redis_queues import (  # noqa: PLC0415 - imports redis
            RedisQueues,
        )

        self._queues = RedisQueues(connection.default_channel)
        others, self.gaps = self._queues.undeclared(frozenset(names))
        self._before = self._queues.look([*names, *others])
        self._unacked = self._queues.unacked()

    def again(self) -> tuple[list[Queue], Unacked | None]:
        found, unacked = self._queues.compared(self._before), self._queues.unacked()
        rates: Mapping[str, float] = {}
        if self._unacked.redelivered or unacked.redelivered:
            rates = self._queues.redeliveries(LONGEST_WATCH)
        return [replace(each, redeliveries=rates.get(each.name, 0.0)) for each in found], unacked


class _RabbitLooks:
    def __init__(self, app: Any, connection: Any, names: list[str], timeout: float) -> None:
        self._queues, self._names = RabbitQueues(connection), names
        self._declared = dict(app.amqp.queues)
        management = Management(address_of(connection, None), timeout)
        self._managed, self.gaps = _managed(management)
        self.alarms = _alarms(management)
        others = sorted(name for name in self._managed if not CELERYS_OWN.search(name))
        if len(others) > MOST:
            self.gaps.append(Gap(UNLISTED, f"only {MOST} of {len(others)} were looked at"))
        self._before = self._queues.look({*names, *others[:MOST]})

    def again(self) -> tuple[list[Queue], Unacked | None]:
        after = self._queues.look(self._before)
        found = [self._described(name, counted) for name, counted in after.items()]
        missing = [Queue(name=name, exists=False) for name in self._names if name not in after]
        return [*found, *missing], None

    def _described(self, name: str, counted: Counted) -> Queue:
        queue = self._queues.described(name, self._declared.get(name), counted)
        before = self._before[name].depth
        if counted.depth is not None and before is not None:
            queue = replace(queue, grew=counted.depth - before)
        view = self._managed.get(name)
        if view is None:
            return queue
        return replace(
            queue,
            unacked=view.unacked,
            kind=queue.kind or view.kind,
            redeliveries=view.redeliveries,
        )


def _managed(management: Management) -> tuple[Mapping[str, Managed], list[Gap]]:
    """Return all queues of the virtual host, if the management interface tells them."""
    try:
        return management.queues(), []
    except BrokerUnseen as error:
        return {}, [Gap(UNLISTED, str(error))]


def _alarms(management: Management) -> tuple[str, ...] | None:
    try:
        return management.alarms()
    except BrokerUnseen:
        return None
