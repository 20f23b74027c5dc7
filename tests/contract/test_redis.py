"""The Redis store keeps the contract, on Valkey and on Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reliable_tasks.stores.redis import RedisStore
from reliable_tasks.testing import Database, StoreContract
from reliable_tasks.testing.contract import Plant
from tests.stores import redis_store


class TestRedis(StoreContract):
    """With the server's own clock."""

    @pytest.fixture
    def store(self, database: Database) -> Iterator[RedisStore]:
        with redis_store(database) as store:
            yield store

    @pytest.fixture
    def plant(self, database: Database) -> Plant:
        def overwrite(key: str, state: str) -> None:
            with database.client() as client:
                client.hset(key, "s", state)

        return overwrite
