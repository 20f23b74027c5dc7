"""Pools of psycopg and psycopg2, without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from typing import Any

import psycopg
import pytest
from psycopg2.pool import SimpleConnectionPool, ThreadedConnectionPool
from psycopg_pool import ConnectionPool, NullConnectionPool

from reliable_tasks import ConfigurationError
from reliable_tasks.pools.recognise import recognise

NOWHERE = "host=db.example port=6000 user=shop password=secret"


class OwnConnection(psycopg.Connection[Any]):
    """A connection class of the user's."""


class OwnPool(ConnectionPool[Any]):
    """A pool with an initialisation of its own."""

    def __init__(self, label: str) -> None:
        super().__init__(NOWHERE, min_size=0, max_size=3, open=True)
        self.label = label


def nothing(*_: Any) -> None:
    """Do nothing with a connection."""


EVERY_OPTION: dict[str, Any] = {
    "conninfo": NOWHERE,
    "connection_class": OwnConnection,
    "kwargs": {"autocommit": True},
    "min_size": 0,
    "max_size": 7,
    "configure": nothing,
    "check": nothing,
    "reset": nothing,
    "name": "orders",
    "close_returns": True,
    "timeout": 1.0,
    "max_waiting": 2,
    "max_lifetime": 3.0,
    "max_idle": 4.0,
    "reconnect_timeout": 5.0,
    "reconnect_failed": nothing,
    "num_workers": 1,
}
TAKEN = {*signature(ConnectionPool).parameters} - {"open"}  # older ones know less
OPTIONS = {name: value for name, value in EVERY_OPTION.items() if name in TAKEN}


def settings(pool: Any) -> dict[str, Any]:
    """Return what a pool was made with, as it keeps it."""
    kept = vars(pool)
    return {name: kept.get(f"_{name}", kept.get(name)) for name in OPTIONS}


@pytest.fixture
def pool() -> Iterator[ConnectionPool[Any]]:
    """A pool with every option, open; it connects with the first use."""
    with ConnectionPool(**OPTIONS) as pool:
        yield pool


class TestBeginAnew:
    """What a child does with a pool of psycopg that it inherited."""

    def test_options(self, pool: ConnectionPool[Any]) -> None:
        """The pool is made with the options that it had, whatever this psycopg_pool takes."""
        assert {*OPTIONS} == TAKEN
        assert settings(pool) == OPTIONS

        reset(pool)

        assert settings(pool) == OPTIONS

    def test_is_open(self, pool: ConnectionPool[Any]) -> None:
        """Its threads are there again, and nobody holds its lock."""
        inherited = pool._lock
        inherited.acquire()

        reset(pool)

        assert not pool.closed
        assert pool._lock is not inherited
        assert all(thread.is_alive() for thread in pool._workers)
        inherited.release()

    def test_a_class_of_the_users(self) -> None:
        """A subclass keeps what its own initialisation made."""
        with OwnPool("orders") as pool:
            reset(pool)

            assert (pool.label, pool.max_size, pool.closed) == ("orders", 3, False)

    def test_without_pool(self) -> None:
        """A NullConnectionPool is one of them."""
        with NullConnectionPool(NOWHERE, max_size=5, open=True) as pool:
            reset(pool)

            assert (pool.max_size, pool.closed) == (5, False)

    @pytest.mark.parametrize("was_open", [False, True])
    def test_closed(self, was_open: bool) -> None:
        """A pool that is not open, or is closed, stays as it is."""
        pool = ConnectionPool(NOWHERE, min_size=0, max_size=1, open=was_open)
        pool.close()

        reset(pool)

        assert pool.closed


def reset(pool: Any) -> None:
    """Reset *pool* as in a child."""
    kind = recognise(pool)
    assert kind.reset is not None
    kind.reset(pool)


class TestPsycopg2:
    """The pools of psycopg2."""

    @pytest.mark.parametrize("cls", [SimpleConnectionPool, ThreadedConnectionPool])
    def test_reset(self, cls: type) -> None:
        """A child begins with an empty pool, and with a lock that nobody holds."""
        pool = cls(0, 2, NOWHERE)
        pool._pool.append("the parent's")
        pool._used[1] = "the parent's, in use"
        if hasattr(pool, "_lock"):
            pool._lock.acquire()

        reset(pool)

        assert (pool._pool, pool._used, pool._rused) == ([], {}, {})
        assert not hasattr(pool, "_lock") or not pool._lock.locked()

    def test_closed_already(self) -> None:
        """A pool that the user closed is no error at the end."""
        pool = SimpleConnectionPool(0, 2, NOWHERE)
        pool.closeall()

        recognise(pool).close(pool)


CAPACITIES = {
    "psycopg": (partial(ConnectionPool, NOWHERE, open=False, min_size=1, max_size=3), 3),
    "arguments": (
        partial(ConnectionPool, kwargs={"host": "db.example", "port": 6000}, open=False),
        4,
    ),
    "psycopg2": (partial(ThreadedConnectionPool, 0, 5, NOWHERE), 5),
    "named": (partial(SimpleConnectionPool, 0, 6, host="db.example", port=6000), 6),
}


@pytest.mark.parametrize(("make", "connections"), CAPACITIES.values(), ids=CAPACITIES)
def test_capacity(make: Callable[[], Any], connections: int) -> None:
    """How much a pool can open, and at which server; a password is not named."""
    pool = make()
    kind = recognise(pool)
    assert kind.capacity is not None

    capacity = kind.capacity(pool)

    assert (capacity.connections, capacity.server) == (
        connections,
        "postgresql on db.example:6000",
    )


def test_capacity_of_an_address_that_changes() -> None:
    """Where a function says how to connect, nobody can know to which server."""
    pool = ConnectionPool(lambda: NOWHERE, open=False)

    assert recognise(pool).capacity(pool) is None


@pytest.mark.parametrize("module", ["psycopg", "psycopg2.extensions"])
def test_a_connection_is_refused(module: str) -> None:
    """A bare connection cannot be made anew in a child; the error says what can."""
    names = {"psycopg": "Connection", "psycopg2.extensions": "connection"}
    connection = type(names[module], (), {"__module__": module})()

    with pytest.raises(ConfigurationError, match=f"got a {module}.*register a pool"):
        recognise(connection)
