"""Which store the tasks of a Celery app use, from its settings."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from reliable_tasks.core.durations import to_ms
from reliable_tasks.core.keys import digest
from reliable_tasks.core.store import Store
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.stores.opening import DEFAULT_TIMEOUT, open_store

if TYPE_CHECKING:
    from reliable_tasks.burial import Shelf
    from reliable_tasks.stores.memory import MemoryStore

__all__ = ("Place", "eager_store", "place_of", "prefix_of", "shelf_of", "warn_of_other_store")

logger = logging.getLogger("reliable_tasks")

_REDIS = ("redis", "rediss", "redis+socket", "unix", "sentinel", "redis+cluster", "rediss+cluster")
_SENTINEL = ("master_name", "min_other_sentinels", "sentinel_kwargs")
_QUERY = ("db", "protocol", "virtual_host")

_warned_of: set[str] = set()


@cache
def eager_store() -> MemoryStore:
    """Return the records of `.apply()` and of eager mode, for as long as the process lives."""
    from reliable_tasks.stores.memory import MemoryStore  # noqa: PLC0415 - few processes need it

    return MemoryStore()


@dataclass(frozen=True, slots=True)
class Place:
    """Where records live, before anything is opened."""

    target: Any = field(repr=False)  # a URL, which may hold a password, a client, or a store
    timeout: float
    options: tuple[tuple[str, Any], ...] = field(default=(), repr=False)

    def open(self) -> Store:
        """Return the store; the same one each time for a URL or a client."""
        return open_store(self.target, timeout=self.timeout, **dict(self.options))

    @property
    def store_id(self) -> str:
        """A short name of the place, equal in every process and without credentials."""
        return digest(self.open().identity)


def warn_of_other_store(theirs: str, own: Place) -> None:
    """
    Say, once a process and store, that a producer expects the records elsewhere.

    Args:
        theirs: The id of the store in a message's header.
        own: Where this worker's records live.
    """
    if theirs in _warned_of:
        return
    _warned_of.add(theirs)
    logger.warning(
        "a message comes from a producer whose store of records is another one than this worker's, "
        "%s. Jobs are guarded here, but not against those that run on the other store: give all "
        "producers and workers the same reliable_tasks_store_url (or the same broker).",
        own.open().identity,
    )


def place_of(conf: Mapping[str, Any], *, url: str | None = None, store: Any = None) -> Place:
    """
    Choose the store: the task's, the app's, else the broker or the result backend if it is Redis.

    Args:
        conf: The app's settings.
        url: The task's own ``store_url``.
        store: The task's own ``store``: a client or a store.

    Raises:
        ConfigurationError: None of these names a Redis, or the time-out is none.
    """
    timeout = _timeout_of(conf.get("reliable_tasks_store_timeout"))
    named = (store, url, conf.get("reliable_tasks_store"), conf.get("reliable_tasks_store_url"))
    for target in named:
        if target is not None:
            return Place(target, timeout)
    for place in (redis_broker(conf), redis_backend(conf)):
        if place is not None:
            return Place(place[0], timeout, tuple(sorted(place[1].items())))
    raise ConfigurationError(
        "store_url: expected a Redis for the records, but neither the broker nor the result "
        "backend is one. Set reliable_tasks_store_url to redis://host:port/db."
    )


def _timeout_of(value: Any) -> float:
    if value is None:
        return DEFAULT_TIMEOUT
    return to_ms("reliable_tasks_store_timeout", value, least=0.001) / 1_000


def prefix_of(conf: Mapping[str, Any]) -> str:
    """Return the first part of the records' names: ours, else the broker's ``global_keyprefix``."""
    own = conf.get("reliable_tasks_prefix")
    if own is None:
        own = (conf.get("broker_transport_options") or {}).get("global_keyprefix") or ""
    if ":" in str(own).rstrip(":"):
        raise ConfigurationError(f"reliable_tasks_prefix: expected a text without ':', got {own!r}")
    return str(own).rstrip(":")


def shelf_of(conf: Mapping[str, Any]) -> Shelf:
    """
    Return where an app's dead letters are kept, and how many, and for how long.

    Raises:
        ConfigurationError: A bound, or the first part of the names, is none.
    """
    # Here, for most programs that import the package keep no letter.
    from reliable_tasks.burial import DEFAULT_AGE, DEFAULT_LIMIT, Shelf  # noqa: PLC0415

    limit = conf.get("reliable_tasks_dead_letter_limit")
    if limit is None:
        limit = DEFAULT_LIMIT
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigurationError(
            f"reliable_tasks_dead_letter_limit: expected a whole number from 1, got {limit!r}"
        )
    age = conf.get("reliable_tasks_dead_letter_age")
    oldest_ms = to_ms(
        "reliable_tasks_dead_letter_age", DEFAULT_AGE if age is None else age, least=1
    )
    return Shelf(prefix_of(conf), limit, oldest_ms)


def redis_broker(conf: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the broker as redis-py takes it, URL and options; None if it is no Redis."""
    url = _url(conf, "broker_write_url") or _url(conf, "broker_url")
    return _redis(url, conf.get("broker_transport_options"), conf.get("broker_use_ssl"))


def redis_backend(conf: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the result backend as redis-py takes it; None if it is no Redis."""
    options = conf.get("result_backend_transport_options")
    return _redis(_url(conf, "result_backend"), options, conf.get("redis_backend_use_ssl"))


def _url(conf: Mapping[str, Any], name: str) -> Any:
    """Return an address as Celery reads it: CELERY_BROKER_URL and the like win over the setting."""
    return getattr(conf, name, None) or conf.get(name)


def _redis(url: Any, transport: Any, tls: Any) -> tuple[str, dict[str, Any]] | None:
    """Return a URL and options that redis-py takes, or None if *url* is no Redis."""
    if isinstance(url, list | tuple):
        url = url[0] if url else None
    if not isinstance(url, str) or url.partition("://")[0] not in _REDIS:
        return None
    options: dict[str, Any] = {}
    if url.startswith("sentinel://"):
        options = {name: transport[name] for name in _SENTINEL if name in (transport or {})}
        tls = {"ssl": True, **tls} if isinstance(tls, Mapping) else None
    else:
        url = _with_redis_names(url.split(";")[0])
    if isinstance(tls, Mapping):
        url = re.sub("^redis://", "rediss://", url)  # as Kombu does with broker_use_ssl
        options |= tls
    return url, options


def _with_redis_names(url: str) -> str:
    """Keep what redis-py knows of an address, and write Celery's ``CERT_REQUIRED`` as it does."""
    head, _, query = url.partition("?")
    kept = [
        (name, value.removeprefix("CERT_").lower() if name == "ssl_cert_reqs" else value)
        for name, value in parse_qsl(query)
        if name.startswith("ssl_") or name in _QUERY
    ]
    return f"{head}?{urlencode(kept)}" if kept else head
