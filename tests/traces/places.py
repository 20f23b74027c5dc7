"""Stores whose time a test can move."""

from __future__ import annotations

import time
from typing import Any, Protocol

from reliable_tasks.core.store import Store
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing.clock import ManualClock

__all__ = ("Memory", "Place", "Served")


class Place(Protocol):
    """A store whose time a test can move."""

    store: Store

    def now_ms(self) -> int:
        """Return the store's time."""
        ...

    def ahead(self) -> float:
        """Return by how many seconds more than the world's clock its time has passed."""
        ...

    def advance(self, seconds: float) -> None:
        """Let time pass for all records."""
        ...

    def flush(self) -> None:
        """Lose all records."""
        ...


class Memory:
    """The memory store under the world's own clock."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock, self.store = clock, MemoryStore(clock)

    def now_ms(self) -> int:
        return self._clock.now_us() // 1_000

    def ahead(self) -> float:
        return 0.0

    def advance(self, seconds: float) -> None:
        """The world has moved the clock already."""

    def flush(self) -> None:
        for key in list(self.store.scan()):
            self.store.forget(key)


class Served:
    """
    A Redis store, on whose server time is moved by moving its records; it also goes on by itself.

    Args:
        store: The store.
        client: Any redis-py client of the same database.
    """

    def __init__(self, store: Store, client: Any) -> None:
        self.store, self._client = store, client
        self._began = time.monotonic()

    def now_ms(self) -> int:
        seconds, microseconds = self._client.time()
        return int(seconds * 1_000 + microseconds // 1_000)

    def ahead(self) -> float:
        return time.monotonic() - self._began

    def advance(self, seconds: float) -> None:
        for key in list(self.store.scan()):
            for field in ("u", "m"):
                if self._client.hexists(key, field):
                    self._client.hincrby(key, field, -round(seconds * 1_000))
            for field, times in (("w", (0, 2, 3)), ("h", (0, 1))):
                self._move(key, field, times, -round(seconds * 1_000))
            left_ms = self._client.pttl(key)
            if left_ms >= 0:
                self._client.pexpire(key, left_ms - round(seconds * 1_000))

    def flush(self) -> None:
        for key in list(self.store.scan()):
            self.store.forget(key)

    def _move(self, key: str, field: str, times: tuple[int, ...], ms: int) -> None:
        """Move the parts of a packed field that are times."""
        packed = self._client.hget(key, field)
        if packed is not None:
            parts = packed.decode().split("|")
            for at in times:
                if parts[at] != "0":  # which is no time
                    parts[at] = str(int(parts[at]) + ms)
            self._client.hset(key, field, "|".join(parts))
