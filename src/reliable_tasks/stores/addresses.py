"""From the URL of a server, of sentinels or of a cluster to a redis-py client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from reliable_tasks.errors import ConfigurationError, StoreUnavailable

__all__ = ("client_at",)

SENTINEL_PORT = 26_379


def client_at(url: str, timeout: float, options: Mapping[str, Any]) -> Any:
    """
    Return a client for *url*.

    ``sentinel://[:password@]host:port[;sentinel://host:port...][/db]`` is Kombu's form and needs
    ``master_name`` in *options* (``sentinel_kwargs`` is passed on to the sentinels);
    ``redis+cluster://[user:password@]host:port`` names any node of a cluster.

    Args:
        url: The address; a password in it never reaches an error.
        timeout: Seconds that connecting, and each answer, may take.
        options: What else redis-py should know, for example TLS files.

    Raises:
        ConfigurationError: The address cannot be read.
        StoreUnavailable: No node of the cluster answered.
    """
    bounds = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    try:
        if url.startswith("sentinel://"):
            return _behind_sentinels(url, bounds, dict(options))
        if url.startswith("redis+cluster://"):
            return _cluster(url, bounds, options)
        if url.startswith("redis+socket://"):
            url = "unix://" + url.partition("://")[2]
        return redis.Redis.from_url(url, **bounds, **options)
    except ValueError as error:
        raise ConfigurationError(
            f"store_url: expected an address that redis-py can read, got one of scheme "
            f"{url.partition('://')[0]!r} that it cannot"
        ) from error


def _behind_sentinels(url: str, bounds: Mapping[str, Any], options: dict[str, Any]) -> Any:
    master_name = options.pop("master_name", None)
    if not master_name:
        raise ConfigurationError(
            "store_url: expected master_name with sentinel:// (for a broker it stands in "
            "broker_transport_options), got none"
        )
    sentinel_options = {**bounds, **(options.pop("sentinel_kwargs", None) or {})}
    places = [urlsplit(each) for each in url.split(";")]
    sentinels = Sentinel(
        [(place.hostname, place.port or SENTINEL_PORT) for place in places],
        sentinel_kwargs=sentinel_options,
    )
    credentials = _credentials(places[0])
    database = int(places[-1].path.strip("/") or 0)
    return sentinels.master_for(master_name, db=database, **bounds, **credentials, **options)


def _cluster(url: str, bounds: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    place = urlsplit(url)
    try:
        return redis.RedisCluster(
            host=place.hostname,
            port=place.port or 6_379,
            retry=Retry(NoBackoff(), 2),
            **bounds,
            **_credentials(place),
            **options,
        )
    except redis.RedisError as error:
        raise StoreUnavailable("connect", f"{type(error).__name__}: {error}") from error


def _credentials(place: Any) -> dict[str, Any]:
    found = {"username": place.username, "password": place.password}
    return {name: unquote(value) for name, value in found.items() if value}
