"""Workers of this app at another database, or under another prefix, of the same Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis

from reliable_tasks.doctor.facts import Gap, Worker
from reliable_tasks.doctor.probes.bounded import ask_all
from reliable_tasks.doctor.probes.reach import said_of
from reliable_tasks.doctor.probes.redis_queues import plain_client
from reliable_tasks.doctor.probes.workers import workers_at

__all__ = ("workers_elsewhere",)

MOST = 8  # places that are asked
WINDOWS = 6  # how many times the window all of them may take, who are asked at once
SCANS, KEYS_AT_ONCE = 20, 1_000


@dataclass(frozen=True, slots=True)
class Corner:
    """A part of a Redis in which workers can be."""

    database: str
    prefix: str


def workers_elsewhere(
    app: Any,
    open_connection: Callable[[], Any],
    own_tasks: frozenset[str],
    server: str | None,
    window: float,
) -> tuple[list[Worker], list[Gap]]:
    """
    Return workers of the same Redis that know tasks of *app*, and listen to another corner of it.

    Args:
        app: The Celery app.
        open_connection: Returns a connection of Kombu's to the broker, with time-outs.
        own_tasks: Names of the app's tasks; workers that know none of them belong to others.
        server: `RedisServer.identity` of the broker.
        window: Seconds in which a worker must answer.
    """
    binding = f"_kombu.binding.{app.conf.control_exchange}.pidbox"  # of every worker
    with open_connection() as connection:
        try:
            corners = sorted(_corners(connection.default_channel, binding), key=str)[:MOST]
        except redis.RedisError as error:
            return [], [Gap("workers at other databases of this Redis", said_of(error))]
    found: list[Worker] = []
    gaps: list[Gap] = []
    questions = [
        partial(_asked, app, open_connection, corner, server, window) for corner in corners
    ]
    for answer in ask_all(questions, seconds=WINDOWS * window):
        if isinstance(answer, BaseException):
            gaps.append(Gap("workers at another database of this Redis", said_of(answer)))
        else:
            found += [worker for worker in answer if own_tasks & (worker.tasks or frozenset())]
    return found, gaps


def _asked(
    app: Any, open_connection: Callable[[], Any], corner: Corner, server: str | None, window: float
) -> list[Worker]:
    connection = open_connection()
    connection.virtual_host = corner.database
    connection.transport_options = {
        **connection.transport_options,
        "global_keyprefix": corner.prefix,
    }
    with connection:
        return workers_at(connection, app, server, window)[0]


def _corners(channel: Any, binding: str) -> Iterator[Corner]:
    """Yield where somebody listens for commands, the channel's own corner left out."""
    own = Corner(str(channel.pool.connection_kwargs.get("db") or 0), channel.global_keyprefix)
    for database in _databases(plain_client(channel)):
        with closing(plain_client(channel, database)) as client:
            for prefix in _prefixes(client, binding):
                corner = Corner(database, prefix)
                if corner != own:
                    yield corner


def _databases(client: Any) -> set[str]:
    """Return the databases of the clients that wait for what is published, as all workers do."""
    return {each["db"] for each in client.client_list() if "P" in each["flags"]}


def _prefixes(client: Any, binding: str) -> Iterator[str]:
    """Yield the prefixes under which workers have said where they hear commands."""
    cursor = 0
    for _ in range(SCANS):
        cursor, found = client.scan(cursor, match=f"*{binding}", count=KEYS_AT_ONCE, _type="set")
        yield from (key.decode(errors="replace").removesuffix(binding) for key in found)
        if not cursor:
            return
