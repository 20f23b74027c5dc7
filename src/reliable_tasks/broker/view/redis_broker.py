"""What lies in Redis or Valkey as kombu keeps it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import time
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from reliable_tasks.broker.view import messages
from reliable_tasks.broker.view.line import Line
from reliable_tasks.broker.view.seen import LIMIT, Held, QueueView, Search, Sighting

__all__ = ("RedisView",)

HELD_PER_COMMAND = 500


class RedisView:
    """
    Lists of messages, and a hash of those that workers hold.

    A queue has a list for each step of priority; the most urgent is read first, each from its
    right end. Redis does not know who reads a list.

    Args:
        line: The connection.
    """

    def __init__(self, line: Line) -> None:
        self._line = line

    def queues(self, names: Iterable[str]) -> list[QueueView]:
        """See `BrokerView`."""
        with self._layout() as layout:
            return [
                QueueView(name=name, depth=sum(layout.lengths(name)), kind="list") for name in names
            ]

    def held(self) -> Held:
        """See `BrokerView`."""
        with self._layout() as layout:
            return layout.held()

    def find(self, task_id: str, names: Iterable[str], *, limit: int = LIMIT) -> Search:
        """See `BrokerView`."""
        with self._layout() as layout:
            search = _Search(layout, task_id, limit)
            for name in names:
                search.look_into(name)
            search.look_at_held()
            return search.result()

    def close(self) -> None:
        """See `BrokerView`."""
        self._line.close()

    @contextmanager
    def _layout(self) -> Iterator[_Layout]:
        with self._line.channel() as channel:
            yield _Layout(channel)


class _Layout:
    """
    How kombu names its keys, and a client that reads them.

    Kombu's own client writes the prefix before the keys of some commands only, so all of ours have
    it and go through a client of redis-py.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        pool = channel.pool
        pool.connection_kwargs["retry"] = Retry(NoBackoff(), 0)  # redis-py 8 has ten
        self.client = redis.Redis(connection_pool=pool)
        self._prefix: str = channel.global_keyprefix
        self.unacked = f"{self._prefix}{channel.unacked_key}"
        self.index = f"{self._prefix}{channel.unacked_index_key}"

    def lists(self, queue: str) -> list[str]:
        """Return the names of a queue's lists, the most urgent one first."""
        steps = self._channel.priority_steps
        return [f"{self._prefix}{self._channel._q_for_pri(queue, step)}" for step in steps]  # noqa: SLF001

    def lengths(self, queue: str) -> list[int]:
        """Return how long each of a queue's lists is."""
        with self.client.pipeline(transaction=False) as pipe:
            for name in self.lists(queue):
                pipe.llen(name)
            return list(map(int, pipe.execute()))

    def held(self) -> Held:
        """Return what all workers hold."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.hlen(self.unacked)
            pipe.zrange(self.index, 0, 0, withscores=True)
            count, oldest = pipe.execute()
        return Held(int(count), time() - oldest[0][1] if oldest else None)


class _Search:
    """One search, which ends when so many messages were read."""

    def __init__(self, layout: _Layout, task_id: str, limit: int) -> None:
        self._layout, self._task_id, self._limit = layout, task_id, limit
        self._mark = messages.mark_of(task_id)
        self._read = 0
        self._held_unread = False
        self._missed: Counter[str] = Counter()
        self._sightings: list[Sighting] = []

    def look_into(self, queue: str) -> None:
        """Read a queue, the messages that are next first; as one list, so that none moves away."""
        ahead = 0
        for name, length in zip(
            self._layout.lists(queue), self._layout.lengths(queue), strict=True
        ):
            rest = max(0, self._limit - self._read)
            if length > rest:
                self._missed[queue] += length - rest
            if length and rest:
                self._look_at_list(queue, name, rest, ahead)
            ahead += length

    def _look_at_list(self, queue: str, name: str, rest: int, ahead: int) -> None:
        found: Any = self._layout.client.lrange(name, -rest, -1)
        self._read += len(found)
        for place, raw in enumerate(reversed(found)):
            message = self._own(raw)
            if message is not None:
                self._sightings.append(
                    Sighting(
                        queue=queue,
                        state="queued",
                        ahead=ahead + place,
                        eta=messages.eta_of(message),
                        redelivered=messages.was_redelivered(message),
                        headers=messages.headers_of(message),
                    )
                )

    def look_at_held(self) -> None:
        """Read what workers hold."""
        cursor: Any = 0
        while True:
            if self._read >= self._limit:
                self._held_unread = bool(cursor) or self._layout.held().count > 0
                return
            answer: Any = self._layout.client.hscan(
                self._layout.unacked, cursor, count=HELD_PER_COMMAND
            )
            cursor, found = answer
            self._read += len(found)
            for tag, raw in found.items():
                self._look_at_one_held(tag, raw)
            if not cursor:
                return

    def _look_at_one_held(self, tag: bytes, raw: bytes) -> None:
        message = self._own(raw)
        if message is None:
            return
        eta = messages.eta_of(message)
        since: Any = self._layout.client.zscore(self._layout.index, tag)
        self._sightings.append(
            Sighting(
                queue=messages.queue_in(message),
                state="unacked" if messages.is_due(eta, time()) else "scheduled",
                eta=eta,
                redelivered=messages.was_redelivered(message),
                since=since,
                headers=messages.headers_of(message),
            )
        )

    def _own(self, raw: bytes) -> messages.Message | None:
        """Return the message if it is one of the job's; what is held has its way beside it."""
        if self._mark not in raw:
            return None
        try:
            found = json.loads(raw)
        except ValueError:
            return None
        message = found[0] if isinstance(found, list) and found else found
        is_own = isinstance(message, dict) and messages.belongs_to(message, self._task_id)
        return message if is_own else None

    def result(self) -> Search:
        """Return what was found."""
        missed = [f"{count} of the queue {name}" for name, count in self._missed.items()]
        if self._held_unread:
            missed.append("those that workers hold")
        gap = f"{self._read} messages were read, but not {', '.join(missed)}" if missed else ""
        return Search(tuple(self._sightings), self._read, gap)
