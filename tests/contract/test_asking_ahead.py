"""A question whose answer is read later, and what may happen to its connection meanwhile."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import pytest

from reliable_tasks.core.records import Duplicate, Reservation, Reserved
from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.stores.redis import RedisStore
from reliable_tasks.testing import Database, silent_server, valkey_server
from tests.stores import redis_store

KEY = "rt1::task:key"
FIRST, SECOND = (Reservation(job, 60_000) for job in ("first", "second"))
MARGIN = 20.0  # seconds, for a busy machine


@pytest.fixture
def store(database: Database) -> Iterator[RedisStore]:
    with redis_store(database) as store:
        store.reserve([("rt1::task:other", FIRST)])  # connects, and loads the script
        yield store


def sockets(database: Database) -> int:
    """How many connections this database has, this question's aside."""
    with database.client() as client:
        found = [each for each in client.client_list() if each["db"] == str(database.number)]
        return len(found) - 1


def test_another_question_meanwhile(store: RedisStore, database: Database) -> None:
    """It has a connection of its own, and both are kept for the next."""
    read = store.begin_reserve(KEY, FIRST)

    assert store.peek(KEY) is not None
    assert read() == Reserved()
    before = sockets(database)
    store.begin_reserve(KEY, SECOND)()
    assert sockets(database) == before


def test_a_connection_that_went_stale(store: RedisStore, database: Database) -> None:
    """The server has closed it before: the question is asked again."""
    with database.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)

    assert store.begin_reserve(KEY, FIRST)() == Reserved()


def test_a_connection_that_is_cut(store: RedisStore, database: Database) -> None:
    """It is asked again, and the job is not told that it is its own duplicate."""
    read = store.begin_reserve(KEY, FIRST)
    with database.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)

    assert read() == Reserved()
    assert store.begin_reserve(KEY, SECOND)() == Duplicate("first", "queued")


def test_a_script_that_the_server_forgot(store: RedisStore, database: Database) -> None:
    """A server that was restarted knows none."""
    with database.client() as client:
        client.script_flush()

    assert store.begin_reserve(KEY, FIRST)() == Reserved()


def test_an_answer_that_is_never_read(store: RedisStore, database: Database) -> None:
    """Its connection is closed, and none has to pay for it."""
    store.begin_reserve(KEY, FIRST)
    gc.collect()

    assert store.begin_reserve(KEY, SECOND)() == Duplicate("first", "queued")
    assert sockets(database) == 1


def test_an_answer_that_is_read_twice(store: RedisStore, database: Database) -> None:
    """A time limit may come just after the first time: the connection is another's by then."""
    read = store.begin_reserve(KEY, FIRST)

    assert read() == Reserved()
    assert read() == Reserved()
    assert sockets(database) == 1


def test_a_server_that_is_gone() -> None:
    """It is said when the question is asked, or when the answer is read."""
    with valkey_server() as server:
        store = RedisStore.from_url(server.url)
        store.reserve([(KEY, FIRST)])
        read = store.begin_reserve(KEY, FIRST)
        read()
        server.kill()
        with pytest.raises(StoreUnavailable):
            store.begin_reserve(KEY, FIRST)()
        with pytest.raises(StoreUnavailable):
            store.begin_reserve(KEY, FIRST)
        server.restart()

        assert store.begin_reserve("rt1::task:new", FIRST)() == Reserved()


def test_a_server_that_never_answers() -> None:
    """One time-out, not two."""
    with silent_server() as url:
        store = RedisStore.from_url(url, timeout=0.5)
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.begin_reserve(KEY, FIRST)()

    assert time.monotonic() - begun < MARGIN
