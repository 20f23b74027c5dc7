"""The queues of a Redis broker, those that no app declares included."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic, sleep, time
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from reliable_tasks.doctor.facts import Gap, Queue, Unacked

__all__ = ("RedisQueues", "Seen", "plain_client")

KEYS_AT_ONCE, SCANS = 1_000, 100
"""How many keys are looked at for lists that nobody declared: the first hundred thousand."""

HELD_LOOKED_AT = 200
NEWEST, WATCH_PAUSE = 50, 0.02  # messages each time, seconds between
NOT_OF_TASKS = (".celery.pidbox", "celeryev")
NOT_ALL = Gap(
    "queues that the app does not declare",
    f"the database has many keys, and only some {SCANS * KEYS_AT_ONCE} were looked at",
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A queue at one moment: how long it is, and the message that is next."""

    depth: int
    head: bytes | None


def plain_client(channel: Any, database: str | None = None) -> Any:
    """
    Return a client that writes no prefix before a key, and does not repeat what is not answered.

    Kombu's own client writes it before the keys of some commands only.

    Args:
        channel: Kombu's, whose way to the server is taken.
        database: Another one than the channel's; then the client must be closed.
    """
    pool = channel.pool
    if database is not None:
        settings = {**pool.connection_kwargs, "db": int(database)}
        pool = redis.ConnectionPool(pool.connection_class, **settings)
    pool.connection_kwargs["retry"] = Retry(NoBackoff(), 0)  # redis-py 8 has ten
    client: Any = redis.Redis(connection_pool=pool)
    client.auto_close_connection_pool = database is not None
    return client


class RedisQueues:
    """
    Reads, and takes nothing out.

    Args:
        channel: Kombu's, which knows how keys are named.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._client = plain_client(channel)
        self._prefix: str = channel.global_keyprefix
        self._held = f"{self._prefix}{channel.unacked_key}"
        self._index = f"{self._prefix}{channel.unacked_index_key}"

    def look(self, names: Iterable[str]) -> dict[str, Seen]:
        """Return each queue as it is now."""
        return {name: self._seen(name) for name in names}

    def _seen(self, name: str) -> Seen:
        lists = [f"{self._prefix}{key}" for key in self._lists(name)]
        with self._client.pipeline(transaction=False) as pipe:
            for key in lists:
                pipe.llen(key)
                pipe.lindex(key, -1)
            answers = pipe.execute()
        heads = [head for head in answers[1::2] if head is not None]
        return Seen(sum(answers[::2]), heads[0] if heads else None)

    def _lists(self, name: str) -> list[str]:
        return [
            self._channel._q_for_pri(name, step)  # noqa: SLF001 - the name that kombu writes
            for step in self._channel.priority_steps
        ]

    def compared(self, before: Mapping[str, Seen]) -> list[Queue]:
        """Look again, and compare."""
        after = self.look(before)
        return [
            Queue(
                name=name,
                kind="list",
                depth=now.depth,
                grew=now.depth - before[name].depth,
                taken=_taken(before[name], now),
            )
            for name, now in after.items()
        ]

    def redeliveries(self, seconds: float) -> dict[str, float]:
        """
        Watch for a while which messages are taken again and again.

        A worker's heartbeat makes what it holds look as if it had just been taken, so only what is
        taken twice counts.

        Args:
            seconds: How long; less than from one beat of a heartbeat to the next.

        Returns:
            Redeliveries each second by queue.
        """
        taken: dict[bytes, float] = {}
        again: Counter[tuple[bytes, str]] = Counter()
        end = monotonic() + seconds
        while monotonic() < end:
            newest = self._client.zrange(self._index, 0, NEWEST - 1, desc=True, withscores=True)
            for tag, at in newest:
                if taken.setdefault(tag, at) != at and (queue := self._redelivered_from(tag)):
                    again[tag, queue] += 1
                taken[tag] = at
            sleep(WATCH_PAUSE)
        rates: dict[str, float] = defaultdict(float)
        for (_, queue), times in again.items():
            if times > 1:
                rates[queue] += times / seconds
        return rates

    def _redelivered_from(self, tag: bytes) -> str | None:
        """Return the queue that a message in a worker's hands went back to before."""
        message = _message(self._client.hget(self._held, tag))
        if message is None or not _was_delivered_before(message):
            return None
        return str(message["properties"]["delivery_info"].get("routing_key"))

    def undeclared(self, declared: frozenset[str]) -> tuple[list[str], list[Gap]]:
        """
        Return the names of further lists that hold messages of tasks.

        Args:
            declared: The queues that the app knows.
        """
        names: set[str] = set()
        for key in self._keys():
            name = key.removeprefix(self._prefix).partition(self._channel.sep)[0]
            if name in declared or name in names or any(part in name for part in NOT_OF_TASKS):
                continue
            if _message(self._client.lindex(key, -1)) is not None:
                names.add(name)
        return sorted(names), [] if self._is_complete else [NOT_ALL]

    def _keys(self) -> Iterator[str]:
        self._is_complete = False
        cursor, beginning = 0, _literally(self._prefix)
        for _ in range(SCANS):
            cursor, found = self._client.scan(
                cursor, match=f"{beginning}*", count=KEYS_AT_ONCE, _type="list"
            )
            yield from (key.decode(errors="replace") for key in found)
            if not cursor:
                self._is_complete = True
                return

    def unacked(self) -> Unacked:
        """Return what workers hold."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hlen(self._held)
            pipe.zrange(self._index, 0, 0, withscores=True)
            pipe.hscan(self._held, 0, count=HELD_LOOKED_AT)
            count, oldest, (_, some) = pipe.execute()
        messages = [message for raw in some.values() if (message := _message(raw)) is not None]
        again = [message for message in messages if _was_delivered_before(message)]
        return Unacked(
            count=int(count),
            silent_for=time() - oldest[0][1] if oldest else None,
            redelivered=len(again),
            tasks=tuple(name for name, _ in Counter(map(_task_of, again)).most_common()),
        )


def _taken(before: Seen, now: Seen) -> int | None:
    """Return 0 if the same message is still next, 1 for at least one; None if none was there."""
    return None if before.head is None else int(now.head != before.head)


def _message(raw: Any) -> Mapping[str, Any] | None:
    """Return a message of Kombu's; None if it is something else."""
    try:
        found = json.loads(raw)
    except (TypeError, ValueError):
        return None
    message = found[0] if isinstance(found, list) and found else found  # as held: with its way
    is_one = isinstance(message, dict) and {"body", "headers", "properties"} <= message.keys()
    return message if is_one else None


def _was_delivered_before(message: Mapping[str, Any]) -> bool:
    return bool((message["properties"].get("delivery_info") or {}).get("redelivered"))


def _task_of(message: Mapping[str, Any]) -> str:
    return str(message["headers"].get("task") or "?")


def _literally(text: str) -> str:
    """Write a text so that Redis takes none of it for a pattern."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)
