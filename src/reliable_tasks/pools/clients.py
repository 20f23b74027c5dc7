"""Clients of Redis, MongoDB and HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reliable_tasks.pools.kinds import FAST, SLOW, Kind

__all__ = ("KINDS", "REFUSED")


def _close(client: Any) -> None:
    client.close()


def _close_redis_client(client: Any) -> None:
    """Close the connections even if the pool is shared: the process ends."""
    client.close()
    client.connection_pool.disconnect()


def _close_redis_pool(pool: Any) -> None:
    pool.disconnect()


def _reset_httpx(client: Any) -> None:
    """
    Close this process's copies of the sockets, of which the other end learns nothing.

    The client itself stays open: only transports of httpx's own are known to open new
    connections after a close.
    """
    for transport in {client._transport, *client._mounts.values()}:  # noqa: SLF001 - no other way
        if type(transport).__name__ == "HTTPTransport":
            transport.close()


REDIS = Kind(title="Redis client", close=_close_redis_client, rank=FAST)  # forgets by itself
REDIS_POOL = Kind(title="Redis connection pool", close=_close_redis_pool, rank=FAST)
MONGO = Kind(title="MongoDB client", close=_close, rank=SLOW)  # tells the server; forgets itself
HTTPX = Kind(title="httpx client", reset=_reset_httpx, close=_close, rank=FAST)
# Closing adapters closes this process's copies of the sockets, without a word in TLS either.
REQUESTS = Kind(title="requests session", reset=_close, close=_close, rank=FAST)

KINDS: Mapping[str, Kind] = {
    "redis.client.Redis": REDIS,
    "redis.cluster.RedisCluster": Kind(title="Redis Cluster client", close=_close, rank=FAST),
    "redis.connection.ConnectionPool": REDIS_POOL,
    "pymongo.mongo_client.MongoClient": MONGO,
    "pymongo.synchronous.mongo_client.MongoClient": MONGO,  # since 4.9
    "httpx.Client": HTTPX,
    "requests.sessions.Session": REQUESTS,
}

NO_EVENT_LOOP = (
    "When a worker process ends no event loop runs in which it could be closed: "
    "open and close it in one task, or give reset= and close= functions that run a loop."
)
REFUSED: Mapping[str, str] = {
    "httpx.AsyncClient": NO_EVENT_LOOP,
    "pymongo.asynchronous.mongo_client.AsyncMongoClient": NO_EVENT_LOOP,
    "redis.asyncio.client.Redis": NO_EVENT_LOOP,
    "redis.asyncio.cluster.RedisCluster": NO_EVENT_LOOP,
    "redis.asyncio.connection.ConnectionPool": NO_EVENT_LOOP,
}
