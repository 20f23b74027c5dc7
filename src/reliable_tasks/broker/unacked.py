"""
Kombu's index of unacknowledged messages in Redis.

With `acks`, the one module that knows kombu's private names. The index is a sorted set: the tag of
each delivery, and when a consumer took it or last said that it has it. What is older than the
visibility timeout goes back to its queue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from time import time
from typing import Any

from kombu.transport import redis

from reliable_tasks.core.snapshots import snapshot

__all__ = (
    "DEFAULT_VISIBILITY_TIMEOUT",
    "UnackedIndex",
    "delivered",
    "keep_when_cut",
    "missing_names",
    "uses_redis",
)

logger = logging.getLogger("reliable_tasks")

DEFAULT_VISIBILITY_TIMEOUT = float(redis.Channel.visibility_timeout)

TAGS_PER_COMMAND = 1_000  # Redis does nothing else meanwhile
SOCKET_TIMEOUT = 5.0  # seconds

_NEEDED = {
    redis.QoS: ("_delivered", "_dirty", "restore_unacked"),
    redis.Channel: ("client", "unacked_index_key", "visibility_timeout"),
}


def uses_redis(app: Any) -> bool:
    """Whether the workers of *app* take their messages from Redis, or from Sentinel's primary."""
    return bool(app.connection_for_read().get_transport_cls().driver_type == "redis")


def missing_names() -> list[str]:
    """Return what the installed kombu does not have of all that this module leans on."""
    return [
        f"{owner.__name__}.{name}"
        for owner, names in _NEEDED.items()
        for name in names
        if not hasattr(owner, name)
    ]


def delivered(qos: Any) -> list[str]:
    """
    Return the tags of what a channel delivered and nobody acknowledged or gave back.

    What was given back can be in another worker's hands, under the same tag.

    Args:
        qos: The channel's `kombu.transport.redis.QoS`; its own thread may go on meanwhile.
    """
    return [tag for tag in snapshot(qos._delivered) if tag not in qos._dirty]  # noqa: SLF001


def keep_when_cut(qos: Any, running: Callable[[], Collection[str]]) -> None:
    """
    Have a channel that closes not give back the messages of jobs that run on.

    Kombu gives all back at once. Where the broker is away it cannot, and with kombu 5.7 the
    worker ends of that.

    Args:
        qos: The channel's `kombu.transport.redis.QoS`.
        running: Called when the channel closes; returns the tags to keep.
    """
    give_back = qos.restore_unacked

    def give_back_others() -> None:
        tags = qos._delivered  # noqa: SLF001
        for tag in running():
            tags.pop(tag, None)
        if not tags:
            return
        try:
            give_back()
        except Exception as error:
            logger.warning(
                "what waited here comes again after the visibility timeout, for it could not be "
                "given back when the connection was lost (%d messages): %r",
                len(tags),
                error,
            )
            tags.clear()

    qos.restore_unacked = give_back_others


class UnackedIndex:
    """
    The index, by a connection of its own to the broker of *app*'s workers.

    The connection is opened by the first call after the start or after `close`. Kombu's own
    client sends the commands, for it knows the prefix of keys, the database, and Sentinel.

    Args:
        app: The Celery app.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._connection: Any = None
        self._channel: Any = None

    def visibility_timeout(self) -> float:
        """Return the broker's visibility timeout in seconds."""
        return float(self._opened().visibility_timeout)

    def refresh(self, tags: Collection[str]) -> None:
        """
        Make *tags* as young as if they had just been delivered; those that are gone stay gone.

        Raises:
            Exception: The broker did not answer: whatever kombu and redis-py raise. Some of
                *tags* may be refreshed; repeating it is harmless.
        """
        channel = self._opened()
        now, each = time(), list(tags)
        with channel.client.pipeline(transaction=False) as pipe:
            for start in range(0, len(each), TAGS_PER_COMMAND):
                some = dict.fromkeys(each[start : start + TAGS_PER_COMMAND], now)
                pipe.zadd(channel.unacked_index_key, some, xx=True)
            pipe.execute()

    def close(self) -> None:
        """Close the connection, if it is open."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            connection.close()

    def _opened(self) -> Any:
        if self._channel is None:
            timeouts = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": SOCKET_TIMEOUT}
            self._connection = self._app.connection_for_read(transport_options=timeouts)
            others = len(self._connection.alt)  # hosts to fail over to
            self._connection.ensure_connection(max_retries=max(1, others), interval_start=0)
            self._channel = self._connection.channel()
        return self._channel
