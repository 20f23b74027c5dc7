"""The Redis store against the table, over questions that nobody thought of."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import Phase, settings

from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing import Database, StoreMachine
from tests.stores import redis_store


def test_redis_agrees_with_the_table(database: Database) -> None:
    """Whatever is asked in whatever order, Redis answers and keeps what the table says."""

    def plant(key: str, state: str) -> None:
        client.hset(key, "s", state)

    with redis_store(database) as store, database.client() as client:
        StoreMachine.drive(store, plant)


class Forgetful(MemoryStore):
    """A store that renews what it should not."""

    def renew(
        self, leases: Sequence[tuple[str, int]], *, lease_ms: int, horizon_ms: int
    ) -> list[bool]:
        super().renew(leases, lease_ms=lease_ms, horizon_ms=horizon_ms)
        return [True for _ in leases]


def test_the_machine_notices_a_difference() -> None:
    """A store that breaks one rule does not pass."""
    with pytest.raises(AssertionError):
        StoreMachine.drive(Forgetful(), how=settings(phases=[Phase.generate], database=None))
