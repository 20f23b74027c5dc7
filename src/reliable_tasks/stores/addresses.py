"""
From what a user named, a URL or a client, to the ways that lead to a server.

Nothing here opens a connection. Of a client only address and credentials are
taken; time-outs and retries are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import redis
from redis.sentinel import Sentinel, SentinelConnectionPool

from reliable_tasks.errors import ConfigurationError

__all__ = ("ClusterWay", "SentinelWay", "Way", "client_at", "names_cluster", "way_of", "way_to")

REDIS_PORT = 6_379
SENTINEL_PORT = 26_379
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")

# What redis-py would do on its own in addition: retry, and follow the server's announcements.
_NOT_TAKEN = frozenset(
    {
        "connection_pool",
        "health_check_interval",
        "himport_registry",
        "retry",
        "retry_on_error",
        "retry_on_timeout",
    }
)
_NOT_TAKEN_PREFIXES = ("maint", "orig_", "oss_cluster_")


@dataclass(frozen=True, slots=True)
class Way:
    """How to connect to one server, as `channel.DirectChannel` takes it."""

    connection_class: Any
    connection_kwargs: Mapping[str, Any] = field(repr=False)  # a password may be among them

    @classmethod
    def of(cls, pool: Any) -> Way:
        """
        Take address and credentials of a redis-py connection pool.

        Raises:
            ConfigurationError: Its settings are none that a connection takes.
        """
        taken = {
            name: value
            for name, value in pool.connection_kwargs.items()
            if name not in _NOT_TAKEN and not name.startswith(_NOT_TAKEN_PREFIXES)
        }
        if not isinstance(pool, SentinelConnectionPool):
            _try(pool.connection_class, taken)
        return cls(pool.connection_class, taken)

    def to(self, host: str, port: int) -> Way:
        """Return the way to another server with the same credentials."""
        return Way(self.connection_class, {**self.connection_kwargs, "host": host, "port": port})

    def __getitem__(self, name: str) -> Any:
        return self.connection_kwargs.get(name)

    @property
    def place(self) -> str:
        """Name of the place, without credentials; the ways to say "this machine" are one."""
        database = self["db"] or 0
        if self["path"]:
            return f"{self['path']}/{database}"
        host = self["host"] or "localhost"
        host = "localhost" if host in {"127.0.0.1", "::1"} else host
        return f"{host}:{self['port'] or REDIS_PORT}/{database}"


@dataclass(frozen=True, slots=True)
class SentinelWay:
    """How to ask sentinels for the primary, and to connect to it."""

    sentinels: tuple[Way, ...]
    service: str
    primary: Way
    others: int = 0  # how many other sentinels an answering one must see
    force_host: str | None = None

    @property
    def place(self) -> str:
        """Name of the place, equal whichever sentinels were named."""
        return f"sentinel {self.service}/{self.primary['db'] or 0}"


@dataclass(frozen=True, slots=True)
class ClusterWay:
    """How to connect to some nodes of a cluster, from which the others can be learned."""

    seeds: tuple[Way, ...]
    remap: Callable[[str, int], tuple[str, int]] = field(default=lambda host, port: (host, port))

    @property
    def place(self) -> str:
        """Name of the place: any node names the same cluster, so no address stands in it."""
        return "cluster"


def client_at(url: str, timeout: float, options: Mapping[str, Any]) -> Any:
    """
    Return a client of the server at *url*, or of the primary behind sentinels.

    ``sentinel://[[user]:password@]host:port[/db][;sentinel://host:port...]`` is Kombu's form and
    needs ``?master_name=...``, or that name in *options* (``sentinel_kwargs`` is passed on to the
    sentinels).

    Args:
        url: The address; a password in it never reaches an error.
        timeout: Seconds that connecting, and each answer, may take.
        options: What else redis-py should know, for example TLS files.

    Raises:
        ConfigurationError: The address cannot be read.
    """
    bounds = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    scheme = url.partition("://")[0]
    try:
        if scheme == "sentinel":
            return _behind_sentinels(url, bounds, dict(options))
        if scheme == "redis+socket":
            url = _socket(url)
        return redis.Redis.from_url(url, **_bounds_for(url, bounds), **options)
    except ValueError:
        # Without its cause, which may quote a part of the address that is a password.
        raise ConfigurationError(
            f"store_url: expected an address that redis-py can read, got one of scheme {scheme!r} "
            "that it cannot. A password with any of / ? # @ : must be percent-encoded."
        ) from None


def way_to(url: str, timeout: float, options: Mapping[str, Any]) -> Way | SentinelWay | ClusterWay:
    """
    Return the way to the place that *url* names.

    Besides what `client_at` takes, ``redis+cluster://[[user]:password@]host:port[;...]``, or
    ``rediss+cluster://`` with TLS, names any nodes of a cluster.
    """
    if not names_cluster(url):
        return way_of(client_at(url, timeout, options))
    seeds = [each.replace("+cluster", "", 1) for each in url.split(";")]
    return ClusterWay(
        tuple(Way.of(client_at(seed, timeout, options).connection_pool) for seed in seeds)
    )


def names_cluster(url: str) -> bool:
    """Whether *url* names nodes of a cluster."""
    return url.partition("://")[0] in CLUSTER_SCHEMES


def way_of(client: Any) -> Way | SentinelWay | ClusterWay:
    """
    Return the way that a client of the user's own goes.

    Raises:
        ConfigurationError: It is no client that waits for answers, or leads to replicas.
    """
    if isinstance(client, redis.RedisCluster):
        return _way_of_cluster(client)
    if not isinstance(client, redis.Redis):
        raise ConfigurationError(
            "store: expected a redis.Redis, a redis.RedisCluster or an object with the methods of "
            f"reliable_tasks.core.store.Store, got {_kind(client)}{_advice(client)}"
        )
    pool = client.connection_pool
    if not isinstance(pool, SentinelConnectionPool):
        return Way.of(pool)
    if not pool.is_master:
        raise ConfigurationError(
            "store: expected a client of the primary, from Sentinel.master_for, got one of the "
            "replicas, from Sentinel.slave_for"
        )
    manager = pool.sentinel_manager
    return SentinelWay(
        tuple(Way.of(sentinel.connection_pool) for sentinel in manager.sentinels),
        pool.service_name,
        Way.of(pool),
        manager.min_other_sentinels,
        getattr(manager, "_force_master_ip", None),
    )


def _way_of_cluster(client: Any) -> ClusterWay:
    ways = [
        Way.of(client.get_redis_connection(node).connection_pool) for node in client.get_nodes()
    ]
    seeds = [
        Way(
            way.connection_class,
            {name: value for name, value in way.connection_kwargs.items()
             if name != "redis_connect_func"},
        )
        for way in ways
    ]  # fmt: skip
    return ClusterWay(tuple(seeds), client.nodes_manager.remap_host_port)


def _kind(client: Any) -> str:
    return f"{type(client).__module__}.{type(client).__name__}"


def _advice(client: Any) -> str:
    if not type(client).__module__.startswith("redis.asyncio"):
        return ""
    return ". Workers do not await: pass the client of the same name from redis, not redis.asyncio"


def _try(connection_class: Any, settings: Mapping[str, Any]) -> None:
    """Make a connection, without connecting it, so that a wrong name is refused now."""
    try:
        connection_class(**settings)
    except (TypeError, ValueError, redis.RedisError) as error:
        raise ConfigurationError(f"store: redis-py refuses its settings: {error}") from None


def _socket(url: str) -> str:
    """Write Celery's ``redis+socket:///path?virtual_host=1`` as redis-py does."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if "virtual_host" in query:
        query["db"] = query.pop("virtual_host")
    return f"unix://{parts.netloc}{parts.path}?{urlencode(query, quote_via=quote)}"


def _bounds_for(url: str, bounds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the time-outs that the kind of connection has."""
    wanted = ["socket_timeout"] if url.startswith("unix://") else list(bounds)
    return {name: bounds[name] for name in wanted}


def _behind_sentinels(url: str, bounds: Mapping[str, Any], options: dict[str, Any]) -> Any:
    places = [urlsplit(each) for each in url.split(";")]
    named = options.pop("master_name", None)
    master_name = _master_in(places) or named
    if not master_name:
        raise ConfigurationError(
            "store_url: expected sentinel://host:port/0?master_name=name (for a broker the name "
            "may stand in broker_transport_options), got no master_name"
        )
    sentinel_options = {**bounds, **(options.pop("sentinel_kwargs", None) or {})}
    sentinels = Sentinel(
        [(place.hostname, place.port or SENTINEL_PORT) for place in places],
        min_other_sentinels=options.pop("min_other_sentinels", 0),
        sentinel_kwargs=sentinel_options,
    )
    database = _database_of(places)
    settings = {"db": database, **bounds, **_credentials(places[0]), **options}
    return sentinels.master_for(master_name, **settings)


def _master_in(places: list[Any]) -> str | None:
    """Return the name in the query; there is nothing else that a query may say."""
    query = {name: value for place in places for name, [value] in parse_qs(place.query).items()}
    name: str | None = query.pop("master_name", None)
    if query:
        raise ConfigurationError(
            f"store_url: expected no more than master_name in a sentinel:// address, got "
            f"{', '.join(query)} too. Pass a client as store instead."
        )
    return name


def _database_of(places: list[Any]) -> int:
    """Return the database, which may stand behind any of the sentinels."""
    named = [place.path.strip("/") for place in places if place.path.strip("/")]
    return int(named[0]) if named else 0


def _credentials(place: Any) -> dict[str, Any]:
    found = {"username": place.username, "password": place.password}
    return {name: unquote(value) for name, value in found.items() if value}
