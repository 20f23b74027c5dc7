"""Which store the tasks of a Celery app use, from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from reliable_tasks.core.keys import digest
from reliable_tasks.core.store import Store
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.stores.opening import DEFAULT_TIMEOUT, open_store

__all__ = ("Place", "place_of", "prefix_of")

_REDIS = ("redis", "rediss", "redis+socket", "sentinel", "redis+cluster")


@dataclass(frozen=True, slots=True)
class Place:
    """Where records live, before anything is opened."""

    target: Any  # a URL, a client, or a store
    timeout: float
    options: tuple[tuple[str, Any], ...] = ()

    def open(self) -> Store:
        """Return the store; the same one each time for a URL."""
        return open_store(self.target, timeout=self.timeout, **dict(self.options))

    @property
    def store_id(self) -> str:
        """A short name of the place, equal in every process and without credentials."""
        if not isinstance(self.target, str):
            return digest(self.open().identity)
        master = dict(self.options).get("master_name", "")
        return digest([*(_address(each) for each in self.target.split(";")), master])


def place_of(conf: Mapping[str, Any], *, url: str | None = None, store: Any = None) -> Place:
    """
    Choose the store: the task's, the app's, else the broker or the result backend if it is Redis.

    Args:
        conf: The app's settings.
        url: The task's own ``store_url``.
        store: The task's own ``store``: a client or a store.

    Raises:
        ConfigurationError: None of these names a Redis.
    """
    timeout = conf.get("reliable_tasks_store_timeout") or DEFAULT_TIMEOUT
    named = (store, url, conf.get("reliable_tasks_store"), conf.get("reliable_tasks_store_url"))
    for target in named:
        if target is not None:
            return Place(target, timeout)
    for place in (_broker(conf), _backend(conf)):
        if place is not None:
            return Place(place[0], timeout, tuple(sorted(place[1].items())))
    raise ConfigurationError(
        "store_url: expected a Redis for the records of IdempotentTask, but neither the broker nor "
        "the result backend is one. Set reliable_tasks_store_url to redis://host:port/db."
    )


def prefix_of(conf: Mapping[str, Any]) -> str:
    """Return the first part of the records' names: ours, else the broker's ``global_keyprefix``."""
    own = conf.get("reliable_tasks_prefix")
    if own is None:
        own = (conf.get("broker_transport_options") or {}).get("global_keyprefix") or ""
    if ":" in str(own).rstrip(":"):
        raise ConfigurationError(f"reliable_tasks_prefix: expected a text without ':', got {own!r}")
    return str(own).rstrip(":")


def _broker(conf: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    url = conf.get("broker_write_url") or conf.get("broker_url")
    return _redis(url, conf.get("broker_transport_options"), conf.get("broker_use_ssl"))


def _backend(conf: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    options = conf.get("result_backend_transport_options")
    return _redis(conf.get("result_backend"), options, conf.get("redis_backend_use_ssl"))


def _redis(url: Any, transport: Any, tls: Any) -> tuple[str, dict[str, Any]] | None:
    """Return a URL and options that redis-py takes, or None if *url* is no Redis."""
    if isinstance(url, list | tuple):
        url = url[0] if url else None
    if not isinstance(url, str) or url.partition("://")[0] not in _REDIS:
        return None
    options: dict[str, Any] = {}
    if url.startswith("sentinel://"):
        wanted = ("master_name", "sentinel_kwargs")
        options = {name: transport[name] for name in wanted if name in (transport or {})}
    else:
        url = _with_redis_names(url.split(";")[0])
    if url.startswith("rediss://") and isinstance(tls, Mapping):
        options |= tls
    return url, options


def _with_redis_names(url: str) -> str:
    """Write Celery's ``ssl_cert_reqs=CERT_REQUIRED`` as redis-py does: ``required``."""
    parts = urlsplit(url)
    query = [(name, value.removeprefix("CERT_").lower() if name == "ssl_cert_reqs" else value)
             for name, value in parse_qsl(parts.query)]  # fmt: skip
    return urlunsplit(parts._replace(query=urlencode(query)))


def _address(url: str) -> str:
    parts = urlsplit(url)
    host = "localhost" if parts.hostname in (None, "127.0.0.1", "::1") else parts.hostname
    return f"{host}:{parts.port or ''}{parts.path.rstrip('/') or '/0'}"
