"""
The way to a Redis server: bounded in time, one connection a caller, no needless work.

redis-py's own command path costs more than the commands that this library
sends, so a `DirectChannel` packs them itself and keeps a few connections at
hand.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError
from redis.retry import Retry

from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.stores.addresses import Way
from reliable_tasks.stores.scripts import Script

__all__ = ("Channel", "DirectChannel", "pack")

logger = logging.getLogger("reliable_tasks")

_MORE = getattr(socket, "MSG_MORE", 0)
"""Linux keeps what is sent with it for the next packet: 200 ms at most, also if we are killed."""


def pack(*parts: bytes | str | int) -> bytes:
    """Return *parts* as bulk strings of the Redis protocol (RESP), without the array's head."""
    packed = b""
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        packed += b"$%d\r\n%b\r\n" % (len(data), data)
    return packed


class Channel(Protocol):
    """What `RedisStore` needs of a connection, a pool or a cluster."""

    def run(self, script: Script, key: str, arguments: bytes, count: int) -> Any:
        """Run *script* on one key; *arguments* are *count* packed bulk strings."""
        ...

    def begin(self, script: Script, key: str, arguments: bytes, count: int) -> Callable[[], Any]:
        """Like `run`, but return what waits for the reply, to be called by the same thread."""
        ...

    def run_on(self, script: Script, keys: Sequence[str], arguments: bytes, count: int) -> Any:
        """Like `run`, on several keys that a cluster keeps on one node."""
        ...

    def run_many(
        self, script: Script, shared: Sequence[Any], pairs: Sequence[tuple[str, Any]]
    ) -> str:
        """Run *script* for (key, argument) pairs; returns its one-character answers in order."""
        ...

    def run_each(
        self, script: Script, entries: Sequence[tuple[str, bytes]], count: int
    ) -> list[Any]:
        """Run *script* once for each (key, *count* packed arguments), in one round trip."""
        ...

    def tell_each(
        self, script: Script, entries: Sequence[tuple[str, bytes]], count: int, *, at_once: bool
    ) -> None:
        """
        Like `run_each` for what may get lost; need not wait for the replies.

        Unless *at_once*, it may leave with what is sent next, within a fifth of a second.
        """
        ...

    def execute(self, *command: Any) -> Any:
        """Run any command that names one key; the reply is not decoded."""
        ...

    def scan(self, pattern: str) -> Iterator[bytes]:
        """Yield the keys that match *pattern*."""
        ...

    def disconnect(self) -> None:
        """Close the connections that are not in use; the next question opens a new one."""
        ...


class DirectChannel:
    """
    A channel to whatever server *way* leads to.

    Connections are this channel's own, with our time-outs and without redis-py's
    retries. They are handed out last in,
    first out, so a process that does one thing at a time uses one; a forked
    child starts with none.

    Args:
        way: The kind of connection, and its settings.
        timeout: Seconds that connecting, and each answer, may take.
    """

    BATCH = 500  # leases in one command: others wait a few milliseconds at most

    def __init__(self, way: Way, timeout: float) -> None:
        self.way, self._timeout = way, timeout
        self._idle: deque[Any] = deque()
        self._unread: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # replies, by connection
        self._loaded: set[str] = set()  # digests of scripts that may be told
        self._pid = os.getpid()

    def run(self, script: Script, key: str, arguments: bytes, count: int) -> Any:
        return self._run(script, b"$1\r\n1\r\n" + pack(key) + arguments, count + 4)

    def begin(self, script: Script, key: str, arguments: bytes, count: int) -> Callable[[], Any]:
        tail, parts = b"$1\r\n1\r\n" + pack(key) + arguments, count + 4
        ask_anew = partial(self._run, script, tail, parts)
        was_idle, connection = self._take()
        try:
            self._send(connection, [script.by_digest(parts) + tail])
        except (RedisError, OSError) as error:
            connection.disconnect()
            self._forgive(script.name, error, was_idle=was_idle)
            return ask_anew

        due = [connection]

        def read() -> Any:
            if not due:  # whoever was told may have been interrupted before it took note
                return ask_anew()
            try:
                [reply] = self._receive(due.pop(), 1)
            except (RedisError, OSError) as error:
                self._forgive(script.name, error, was_idle=was_idle)
                return ask_anew()
            return ask_anew() if self._is_unknown(reply) else _checked(reply, script.name)

        return read

    def run_on(self, script: Script, keys: Sequence[str], arguments: bytes, count: int) -> Any:
        tail = pack(len(keys), *keys) + arguments
        return self._run(script, tail, count + 3 + len(keys))

    def _run(self, script: Script, tail: bytes, parts: int) -> Any:
        [reply] = self._ask(script.name, [script.by_digest(parts) + tail])
        if self._is_unknown(reply):
            [reply] = self._ask(script.name, [script.by_text(parts) + tail])
        return _checked(reply, script.name)

    def run_many(
        self, script: Script, shared: Sequence[Any], pairs: Sequence[tuple[str, Any]]
    ) -> str:
        batches = [pairs[at : at + self.BATCH] for at in range(0, len(pairs), self.BATCH)]
        tails = [
            pack(len(batch), *(key for key, _ in batch), *shared, *(each for _, each in batch))
            for batch in batches
        ]
        counts = [3 + 2 * len(batch) + len(shared) for batch in batches]
        replies = self._ask(
            script.name,
            [script.by_digest(count) + tail for count, tail in zip(counts, tails, strict=True)],
        )
        for at, reply in enumerate(replies):
            if self._is_unknown(reply):
                [replies[at]] = self._ask(script.name, [script.by_text(counts[at]) + tails[at]])
        return b"".join(_checked(reply, script.name) for reply in replies).decode()

    def run_each(
        self, script: Script, entries: Sequence[tuple[str, bytes]], count: int
    ) -> list[Any]:
        replies = self.ask_each(script, entries, count)
        missed = [at for at, reply in enumerate(replies) if self._is_unknown(reply)]
        if missed:
            first, *others = missed
            replies[first] = self.run(script, *entries[first], count)  # which loads it
            again = self.ask_each(script, [entries[at] for at in others], count)
            for at, reply in zip(others, again, strict=True):
                replies[at] = reply
        return [_checked(reply, script.name) for reply in replies]

    def ask_each(
        self, script: Script, entries: Sequence[tuple[str, bytes]], count: int
    ) -> list[Any]:
        """Like `run_each`, but an error is a value among the replies."""
        return self._ask(script.name, _by_digest(script, entries, count)) if entries else []

    def tell_each(
        self, script: Script, entries: Sequence[tuple[str, bytes]], count: int, *, at_once: bool
    ) -> None:
        if script.digest not in self._loaded:
            self.run_each(script, entries, count)
            self._loaded.add(script.digest)
            return
        _, connection = self._take()
        commands = _by_digest(script, entries, count)
        try:
            self._send(connection, commands, at_once=at_once)
        except (RedisError, OSError) as error:
            raise _unavailable(script.name, error) from error
        self._unread[connection] = self._unread.get(connection, 0) + len(entries)
        self._idle.append(connection)

    def execute(self, *command: Any) -> Any:
        name = str(command[0])
        [reply] = self._ask(name, [b"*%d\r\n" % len(command) + pack(*command)])
        return _checked(reply, name)

    def scan(self, pattern: str) -> Iterator[bytes]:
        cursor = b"0"
        while True:
            cursor, keys = self.execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1_000)
            yield from keys
            if int(cursor) == 0:
                return

    def disconnect(self) -> None:
        idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.disconnect()

    def _ask(self, operation: str, commands: list[bytes]) -> list[Any]:
        """Send *commands* in one round trip; a connection that went stale is replaced once."""
        was_idle, connection = self._take()
        try:
            return self._exchange(connection, commands)
        except (RedisError, OSError) as error:
            self._forgive(operation, error, was_idle=was_idle)
        try:
            return self._exchange(self._connect(), commands)
        except (RedisError, OSError) as error:
            raise _unavailable(operation, error) from error

    def _forgive(self, operation: str, error: Exception, *, was_idle: bool) -> None:
        """Raise *error* as `StoreUnavailable`, unless a connection had gone stale meanwhile."""
        is_broken = isinstance(error, redis.ConnectionError | OSError)
        is_late = isinstance(error, redis.TimeoutError | TimeoutError)
        if not was_idle or not is_broken or is_late:
            raise _unavailable(operation, error) from error
        self._leave()

    def _exchange(self, connection: Any, commands: list[bytes]) -> list[Any]:
        try:
            self._send(connection, commands)
        except BaseException:
            connection.disconnect()
            raise
        return self._receive(connection, len(commands))

    def _receive(self, connection: Any, count: int) -> list[Any]:
        try:
            self._read_unread(connection)  # only now has the last of them certainly left
            replies = [_reply(connection) for _ in range(count)]
        except BaseException:  # also an exception thrown into a greenlet: the reply is still due
            connection.disconnect()
            raise
        self._idle.append(connection)
        return replies

    def _send(self, connection: Any, commands: list[bytes], *, at_once: bool = True) -> None:
        packet = b"".join(commands)
        stream = connection._sock  # noqa: SLF001 - redis-py passes no flags on
        if at_once or not _MORE or stream is None or isinstance(stream, ssl.SSLSocket):
            connection.send_packed_command([packet])
        else:
            stream.sendall(packet, _MORE)

    def _read_unread(self, connection: Any) -> None:
        count = self._unread.pop(connection, 0)
        replies = [_reply(connection) for _ in range(count)]
        errors = [reply for reply in replies if isinstance(reply, RedisError)]
        if errors:
            self._is_unknown(errors[0])
            logger.warning(
                "%d of %d jobs are reserved for the publish grace only: %s",
                len(errors),
                count,
                _described(errors[0]),
            )

    def _is_unknown(self, reply: Any) -> bool:
        """Whether the server does not know a script: restarted or flushed, it may know none."""
        is_unknown = isinstance(reply, NoScriptError)
        if is_unknown:
            self._loaded.clear()
        return is_unknown

    def _leave(self) -> None:
        """Leave the connections to a server that was; the next may know no script."""
        self._idle.clear()
        self._loaded.clear()

    def _take(self) -> tuple[bool, Any]:
        if self._pid != os.getpid():
            self._idle, self._pid = deque(), os.getpid()
        try:
            return True, self._idle.pop()
        except IndexError:
            return False, self._connect()

    def _connect(self) -> Any:
        connection: Any = self.way.connection_class(**self.way.connection_kwargs)
        connection.socket_timeout = connection.socket_connect_timeout = self._timeout
        connection.retry = Retry(NoBackoff(), 0)
        return connection


def _by_digest(script: Script, entries: Sequence[tuple[str, bytes]], count: int) -> list[bytes]:
    head = script.by_digest(count + 4) + b"$1\r\n1\r\n"
    return [head + pack(key) + arguments for key, arguments in entries]


def _reply(connection: Any) -> Any:
    """Return one reply; an error that the server replies is a value, the connection is sound."""
    try:
        return connection.read_response(disable_decoding=True)
    except ReadOnlyError as error:  # the name may lead to another primary by now
        raise redis.ConnectionError(f"READONLY {error}") from error
    except redis.ResponseError as error:
        return error


def _checked(reply: Any, operation: str) -> Any:
    if isinstance(reply, RedisError):
        raise _unavailable(operation, reply) from reply
    return reply


def _unavailable(operation: str, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(operation, _described(error))


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(". ")
