"""
Acknowledgements that nobody waits for, where the broker is Redis.

Kombu waits for the reply to each, on its longest way: a quarter of what a task that does nothing
takes. RabbitMQ replies to none, and a guarded task loses nothing by that. If an acknowledgement is
lost, the message comes again and its record answers in the body's place.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection
from time import monotonic
from typing import Any

from kombu.transport import redis, virtual
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from reliable_tasks.broker.unacked import SOCKET_TIMEOUT

__all__ = ("PromptAcks", "is_known")

logger = logging.getLogger("reliable_tasks")

REPLIES = 4  # to the commands of one acknowledgement
MOST_UNREAD = 64  # acknowledgements of which nobody knows yet whether they arrived

IDLE = 10.0  # seconds; servers, and what is on the way to them, close connections that are idle

_NEEDED = {
    redis.QoS: ("_delivered", "ack"),
    redis.Channel: ("global_keyprefix", "pool", "unacked_index_key", "unacked_key"),
}


def is_known() -> bool:
    """Whether the installed kombu has all that this module leans on."""
    return all(hasattr(owner, name) for owner, names in _NEEDED.items() for name in names)


class PromptAcks:
    """
    Acknowledges what a channel delivered, guarded messages without waiting.

    They leave by a connection of their own, and the replies are read some time later. If that goes
    wrong, all that may not have arrived is repeated, and the one in hand goes kombu's own way. So
    does one that the handler of a signal acknowledges in the middle of another. To acknowledge
    twice is harmless: when a guarded message is acknowledged, all its copies are over.

    Args:
        channel: A `kombu.transport.redis.Channel`.
        is_guarded: Whether a message may safely come again.
    """

    def __init__(self, channel: Any, is_guarded: Callable[[Any], bool]) -> None:
        self._channel, self._qos, self._is_guarded = channel, channel.qos, is_guarded
        self._wait_for = channel.qos.ack
        self._pool: Any = None
        self._connection: Any = None
        self._unread: deque[str] = deque()  # tags of those that may not have arrived
        self._sent_at = 0.0
        self._is_closed = self._is_busy = False
        self._lock = threading.RLock()  # the handler of a signal may acknowledge in the middle

    def install(self) -> None:
        """Have the channel acknowledge this way."""
        self._qos.ack = self.ack

    def ack(self, tag: str) -> None:
        """
        Acknowledge one delivery.

        Args:
            tag: The delivery's.

        Raises:
            Exception: From kombu's own way: whatever it and redis-py raise.
        """
        message = self._qos._delivered.get(tag)  # noqa: SLF001
        if message is None or not self._is_guarded(message) or not self._tell(tag):
            self._wait_for(tag)
            return
        virtual.QoS.ack(self._qos, tag)

    def close(self) -> None:
        """Make sure that all of them arrived; those that follow are waited for."""
        with self._lock:
            self._is_closed = True
            try:
                self._read_until(0)
            except (RedisError, OSError):
                self._repeat()
            self._disconnect()
            if self._unread:
                logger.warning(
                    "%d acknowledgements may be lost; their messages then come again after the "
                    "visibility timeout, and their records answer",
                    len(self._unread),
                )

    def _tell(self, tag: str) -> bool:
        """Send an acknowledgement; return False if it may not have left."""
        with self._lock:
            if self._is_closed or self._is_busy:
                return False
            self._is_busy = True
            try:
                return self._send(tag)
            finally:
                self._is_busy = False

    def _send(self, tag: str) -> bool:
        try:
            if monotonic() - self._sent_at >= IDLE:
                self._read_until(0)
                self._disconnect()
            self._read_until(MOST_UNREAD - 1)
            self._write([tag])
        except (RedisError, OSError):
            self._repeat()
            return False
        except BaseException:  # thrown into a greenlet: replies are still due
            self._disconnect()
            raise
        self._unread.append(tag)
        self._sent_at = monotonic()
        return True

    def _repeat(self) -> None:
        """Repeat what may not have arrived, or leave it to the next time if that fails too."""
        self._disconnect()
        try:
            self._write(self._unread)
            self._read_until(0)
        except (RedisError, OSError) as error:
            self._disconnect()
            logger.info("acknowledgements have to be repeated: %s: %s", type(error).__name__, error)

    def _write(self, tags: Collection[str]) -> None:
        if tags:
            connection = self._opened()
            commands = [command for tag in tags for command in self._commands(tag)]
            connection.send_packed_command(connection.pack_commands(commands))

    def _read_until(self, most: int) -> None:
        """Read replies until those of *most* acknowledgements are due."""
        while len(self._unread) > most:
            if self._connection is None:
                raise ConnectionError("the connection on which replies were due is closed")
            for _ in range(REPLIES):
                self._connection.read_response(disable_decoding=True)
            self._unread.popleft()

    def _opened(self) -> Any:
        """Return the connection: one more than kombu's pool allows, with a time-out."""
        if self._connection is None:
            pool = self._pool = self._pool or self._channel.pool  # a closed channel has none
            connection = self._connection = pool.connection_class(**pool.connection_kwargs)
            connection.socket_timeout = connection.socket_connect_timeout = SOCKET_TIMEOUT
            connection.retry, connection.health_check_interval = Retry(NoBackoff(), 0), 0
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _commands(self, tag: str) -> list[tuple[str, ...]]:
        """The commands that kombu sends, too: both are done, or none."""
        channel, prefix = self._channel, self._channel.global_keyprefix
        return [
            ("MULTI",),
            ("ZREM", prefix + channel.unacked_index_key, tag),
            ("HDEL", prefix + channel.unacked_key, tag),
            ("EXEC",),
        ]
