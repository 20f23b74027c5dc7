"""From what a user wrote to a store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from reliable_tasks.core.store import Store
from reliable_tasks.errors import ConfigurationError

__all__ = ("open_store",)

DEFAULT_TIMEOUT = 2.0  # seconds
_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+socket",
    "sentinel",
    "redis+cluster",
    "rediss+cluster",
)

_Opened = dict[tuple[float, str], Store]
_by_url: dict[str, _Opened] = {}
_by_client: WeakKeyDictionary[Any, _Opened] = WeakKeyDictionary()
_opening = Lock()


def _renew_lock() -> None:
    """Free it in a forked child: the thread that held it, if one did, is not there."""
    global _opening
    _opening = Lock()


os.register_at_fork(after_in_child=_renew_lock)


def open_store(place: Any, *, timeout: float = DEFAULT_TIMEOUT, **options: Any) -> Store:
    """
    Return the store at *place*; opens no connection.

    The same URL, or the same client, gives the same store, so that all tasks of a
    process share its connections.

    Args:
        place: A URL, a redis-py client, or an object with the methods of `Store`.
        timeout: Seconds that one answer may take; for URLs and clients.
        options: For a URL: passed on to redis-py, for example TLS files.

    Raises:
        ConfigurationError: *place* is none of these.
    """
    if not isinstance(place, str) and isinstance(place, Store):
        return place
    terms = (timeout, repr(sorted(options.items())))
    with _opening:
        opened = _by_url.setdefault(place, {}) if isinstance(place, str) else _of_client(place)
        if terms not in opened:
            opened[terms] = _open(place, timeout, options)
        return opened[terms]


def _of_client(client: Any) -> _Opened:
    try:
        return _by_client.setdefault(client, {})
    except TypeError:  # no client, whatever it is: refused in a moment
        return {}


def _open(place: Any, timeout: float, options: Mapping[str, Any]) -> Store:
    if isinstance(place, str):
        _check_scheme(place)
    from reliable_tasks.stores.redis import RedisStore  # noqa: PLC0415 - redis is not needed before

    if isinstance(place, str):
        return RedisStore.from_url(place, timeout=timeout, **options)
    return RedisStore(place, timeout=timeout)


def _check_scheme(url: str) -> None:
    if url.partition("://")[0] not in _SCHEMES:
        raise ConfigurationError(  # without the wrong one, which may be anything
            f"store_url: expected one of {', '.join(f'{each}://' for each in _SCHEMES)}, "
            "got another scheme"
        )
