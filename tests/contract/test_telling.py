"""A confirmation that nobody waits for comes to the server soon, whatever becomes of its sender."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from reliable_tasks.core.records import Confirmation, Reservation, Reserved
from reliable_tasks.stores.redis import RedisStore
from reliable_tasks.testing import Database, eventually
from tests.stores import redis_store

KEY, JOB = "rt1::task:key", "job"
GRACE_MS, KEEP_MS = 60_000, 600_000
LATER = Confirmation(JOB, KEEP_MS, at_once=False)


@pytest.fixture
def store(database: Database) -> Iterator[RedisStore]:
    with redis_store(database) as store:
        store.confirm([("rt1::task:other", Confirmation(JOB, KEEP_MS))])  # loads the script
        yield store


def publish(store: RedisStore, word: Confirmation) -> None:
    assert isinstance(store.reserve([(KEY, Reservation(JOB, GRACE_MS))])[0], Reserved)
    store.confirm([(KEY, word)])


def is_confirmed(database: Database) -> bool:
    with database.client() as client:
        return GRACE_MS < client.pttl(KEY) <= KEEP_MS


def test_it_leaves_though_nothing_follows(store: RedisStore, database: Database) -> None:
    """A producer that publishes one job, and then does something else, has confirmed it."""
    publish(store, LATER)

    eventually(lambda: is_confirmed(database), timeout=5)


def test_it_leaves_though_the_producer_is_killed(store: RedisStore, database: Database) -> None:
    """What was told stays told: the system sends it after the process that is no more."""
    child = os.fork()
    if child == 0:
        try:
            own = RedisStore.from_url(database.url)
            own.confirm([("rt1::task:other", Confirmation(JOB, KEEP_MS))])
            publish(own, LATER)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)

    eventually(lambda: is_confirmed(database), timeout=5)


def test_what_follows_is_answered_at_once(store: RedisStore) -> None:
    """The next question takes it along, and does not wait for the moment to pass."""
    publish(store, LATER)
    record = store.peek(KEY)

    assert record is not None
    assert record.waiting is not None
    assert record.waiting.until_ms - record.waiting.due_ms > GRACE_MS


def test_what_must_not_wait_does_not(
    store: RedisStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word by which other calls or runs go leaves at once."""
    monkeypatch.setattr("reliable_tasks.stores.channel._MORE", "no flag")
    with pytest.raises(TypeError):
        publish(store, LATER)
    publish(store, Confirmation(JOB, KEEP_MS))

    eventually(lambda: is_confirmed(database), timeout=5)
