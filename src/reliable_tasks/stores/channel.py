"""
The way to a Redis server: bounded in time, one connection a caller, no needless work.

redis-py's own command path costs more than the commands that this library
sends, so a `DirectChannel` packs them itself and keeps a few connections at
hand. A client without a plain connection pool (Redis Cluster) is asked through
its public `execute_command` instead.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.stores.scripts import Script

__all__ = ("Channel", "ClusterChannel", "DirectChannel", "pack")


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

    def run_many(
        self, script: Script, shared: Sequence[Any], pairs: Sequence[tuple[str, Any]]
    ) -> str:
        """Run *script* for (key, argument) pairs; returns its one-character answers in order."""
        ...

    def execute(self, *command: Any) -> Any:
        """Run any command that names one key; the reply is not decoded."""
        ...

    def scan(self, pattern: str) -> Iterator[bytes]:
        """Yield the keys that match *pattern*."""
        ...


class DirectChannel:
    """
    A channel to whatever server the connections of *pool* lead to.

    Connections are this channel's own, made from the pool's settings but with
    our time-outs and without redis-py's retries. They are handed out last in,
    first out, so a process that does one thing at a time uses one; a forked
    child starts with none.

    Args:
        pool: Any redis-py connection pool, a Sentinel one included.
        timeout: Seconds that connecting, and each answer, may take.
    """

    BATCH = 1_000

    def __init__(self, pool: redis.ConnectionPool, timeout: float) -> None:
        self._pool, self._timeout = pool, timeout
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()

    def run(self, script: Script, key: str, arguments: bytes, count: int) -> Any:
        tail = b"$1\r\n1\r\n" + pack(key) + arguments
        [reply] = self._ask(script.name, [script.by_digest(count + 4) + tail])
        if isinstance(reply, NoScriptError):
            [reply] = self._ask(script.name, [script.by_text(count + 4) + tail])
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
            if isinstance(reply, NoScriptError):
                [replies[at]] = self._ask(script.name, [script.by_text(counts[at]) + tails[at]])
        return b"".join(_checked(reply, script.name) for reply in replies).decode()

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

    def _ask(self, operation: str, commands: list[bytes]) -> list[Any]:
        """Send *commands* in one round trip; a connection that went stale is replaced once."""
        was_idle, connection = self._take()
        try:
            return self._exchange(connection, commands)
        except (redis.ConnectionError, OSError) as error:
            if not was_idle or isinstance(error, redis.TimeoutError | TimeoutError):
                raise _unavailable(operation, error) from error
            self._idle.clear()
        except RedisError as error:
            raise _unavailable(operation, error) from error
        try:
            return self._exchange(self._connect(), commands)
        except (RedisError, OSError) as error:
            raise _unavailable(operation, error) from error

    def _exchange(self, connection: Any, commands: list[bytes]) -> list[Any]:
        try:
            connection.send_packed_command(commands)
            replies = [_reply(connection) for _ in commands]
        except BaseException:  # also an exception thrown into a greenlet: the reply is still due
            connection.disconnect()
            raise
        self._idle.append(connection)
        return replies

    def _take(self) -> tuple[bool, Any]:
        if self._pid != os.getpid():
            self._idle, self._pid = deque(), os.getpid()
        try:
            return True, self._idle.pop()
        except IndexError:
            return False, self._connect()

    def _connect(self) -> Any:
        connection: Any = self._pool.connection_class(**self._pool.connection_kwargs)
        connection.socket_timeout = connection.socket_connect_timeout = self._timeout
        connection.retry = Retry(NoBackoff(), 0)
        return connection


def _reply(connection: Any) -> Any:
    """Return one reply; an error that the server replies is a value, the connection is sound."""
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error


def _checked(reply: Any, operation: str) -> Any:
    if isinstance(reply, RedisError):
        raise _unavailable(operation, reply) from reply
    return reply


def _unavailable(operation: str, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(operation, f"{type(error).__name__}: {error}")


class ClusterChannel:
    """A channel through `redis.RedisCluster`, whose own routing finds the node of each key."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, script: Script, key: str, arguments: bytes, count: int) -> Any:
        return self._run(script, key, _unpack(arguments))

    def run_many(
        self, script: Script, shared: Sequence[Any], pairs: Sequence[tuple[str, Any]]
    ) -> str:
        answers = dict.fromkeys(range(len(pairs)), b"")
        by_node: dict[Any, list[int]] = {}
        for at, (key, _) in enumerate(pairs):
            by_node.setdefault(self._client.get_node_from_key(key), []).append(at)
        for node, places in by_node.items():
            pipe = self._client.get_redis_connection(node).pipeline(transaction=False)
            for at in places:
                pipe.evalsha(script.digest, 1, pairs[at][0], *shared, pairs[at][1])
            replies = self._guarded(
                script.name, lambda pipe=pipe: pipe.execute(raise_on_error=False)
            )
            for at, reply in zip(places, replies, strict=True):
                if isinstance(reply, Exception):  # not loaded, or the slot has moved
                    reply = self._run(script, pairs[at][0], [*shared, pairs[at][1]])
                answers[at] = reply if isinstance(reply, bytes) else str(reply).encode()
        return b"".join(answers.values()).decode()

    def execute(self, *command: Any) -> Any:
        return self._guarded(
            str(command[0]), lambda: self._client.execute_command(*command, NEVER_DECODE=True)
        )

    def scan(self, pattern: str) -> Iterator[bytes]:
        for key in self._client.scan_iter(match=pattern, count=1_000):
            yield key if isinstance(key, bytes) else key.encode()

    def _run(self, script: Script, key: str, arguments: Sequence[Any]) -> Any:
        try:
            return self.execute("EVALSHA", script.digest, 1, key, *arguments)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        return self.execute("EVAL", script.text, 1, key, *arguments)

    def _guarded(self, operation: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (RedisError, OSError) as error:
            raise _unavailable(operation, error) from error


def _unpack(packed: bytes) -> list[bytes]:
    """Undo `pack`."""
    parts, at = [], 0
    while at < len(packed):
        start = packed.index(b"\r\n", at) + 2
        length = int(packed[at + 1 : start - 2])
        parts.append(packed[start : start + length])
        at = start + length + 2
    return parts
