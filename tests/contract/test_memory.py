"""The memory store keeps the contract."""

from __future__ import annotations

import pytest

from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing import LimiterContract, ManualClock, StoreContract
from reliable_tasks.testing.contract import Elapse, Plant


class TestMemory(StoreContract, LimiterContract):
    """On a clock that stands still until it is moved."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def store(self, clock: ManualClock) -> MemoryStore:
        return MemoryStore(clock)

    @pytest.fixture
    def elapse(self, clock: ManualClock) -> Elapse:
        def advance(*, ms: int) -> None:
            clock.advance(ms / 1_000)

        return advance

    @pytest.fixture
    def plant(self, store: MemoryStore) -> Plant:
        def overwrite(key: str, state: str) -> None:
            store._records[key].state = state

        return overwrite


class TestMemoryOnRealTime(TestMemory):
    """On the system's clock, as in production."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    elapse = StoreContract.elapse
