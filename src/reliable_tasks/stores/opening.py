"""From what a user wrote to a store."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from reliable_tasks.core.store import Store
from reliable_tasks.errors import ConfigurationError

__all__ = ("open_store",)

DEFAULT_TIMEOUT = 2.0  # seconds
_SCHEMES = ("redis", "rediss", "unix", "redis+socket")


def open_store(place: Any, *, timeout: float = DEFAULT_TIMEOUT, **options: Any) -> Store:
    """
    Return the store at *place*; opens no connection.

    Args:
        place: A URL, a redis-py client, or an object with the methods of `Store`.
        timeout: Seconds that one answer may take; for URLs and clients.
        options: For a URL: passed on to redis-py, for example TLS files.

    Raises:
        ConfigurationError: *place* is none of these.
    """
    if isinstance(place, Store):
        return place
    if isinstance(place, str):
        return _from_url(place, timeout, tuple(sorted(options.items())))
    from reliable_tasks.stores.redis import RedisStore  # noqa: PLC0415 - redis is not needed before

    return RedisStore(place, timeout=timeout)


@lru_cache(maxsize=64)
def _from_url(url: str, timeout: float, options: tuple[tuple[str, Any], ...]) -> Store:
    scheme = url.partition("://")[0]
    if scheme not in _SCHEMES and not scheme.startswith(("sentinel", "redis+cluster")):
        raise ConfigurationError(
            "store_url: expected redis://, rediss://, unix://, sentinel:// or redis+cluster://, "
            f"got a URL of scheme {scheme!r}"
        )
    from reliable_tasks.stores.redis import RedisStore  # noqa: PLC0415 - redis is not needed before

    return RedisStore.from_url(url, timeout=timeout, **dict(options))
