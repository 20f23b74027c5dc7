"""Stores under test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from reliable_tasks.stores.redis import RedisStore
from reliable_tasks.testing import Database


@contextmanager
def redis_store(database: Database) -> Iterator[RedisStore]:
    """A store whose connections are closed at the end; a worker keeps its own until it ends."""
    store = RedisStore.from_url(database.url, timeout=10)
    try:
        yield store
    finally:
        store.disconnect()
