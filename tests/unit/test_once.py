"""`once`: the guard's protocol for code outside Celery."""

from __future__ import annotations

import random

import pytest

from reliable_tasks import AlreadyDone, AlreadyRunning, ConfigurationError, LeaseLost, once
from reliable_tasks.core.store import Store
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> Store:
    return MemoryStore(clock)


def test_a_finished_block_answers_with_its_result(store: Store) -> None:
    """What the first block assigned is what the second caller gets, without running."""
    with once("webhook:42", store=store) as lease:
        lease.result = {"paid": True}

    with pytest.raises(AlreadyDone) as caught, once("webhook:42", store=store):
        pytest.fail("ran twice")
    assert caught.value.result == {"paid": True}


def test_two_at_once_never_run(store: Store) -> None:
    """Whoever comes while the block runs is told so at once, with the time that is left."""
    with once("k", store=store, lease_seconds=30):
        with pytest.raises(AlreadyRunning) as caught, once("k", store=store):
            pytest.fail("ran twice")
        assert 0 < caught.value.remaining <= 30


def test_a_seeded_caller_is_no_copy_of_another(store: Store) -> None:
    """Two callers whose random numbers are the same are still two."""
    random.seed(0)
    with once("k", store=store):
        random.seed(0)
        with pytest.raises(AlreadyRunning), once("k", store=store):
            pytest.fail("ran twice")


def test_an_error_frees_the_key(store: Store) -> None:
    """A block that fails may be tried again at once, and its error is not hidden."""
    with pytest.raises(KeyError), once("k", store=store):
        raise KeyError

    with once("k", store=store) as lease:
        assert lease.crashes == 0


def test_keys_are_apart(store: Store) -> None:
    """Another key is another job."""
    with once("a", store=store), once("b", store=store):
        pass


def test_retention_ends(store: Store, clock: ManualClock) -> None:
    """After its retention a key may run again."""
    with once("k", store=store, retention=60):
        pass
    clock.advance(61)

    with once("k", store=store) as lease:
        assert lease.token > 0


def test_a_lease_that_was_taken_over_is_an_error_at_exit(store: Store, clock: ManualClock) -> None:
    """A block that outlived its lease learns that its outcome was not recorded."""
    slow = once("k", store=store, lease_seconds=1)
    slow.__enter__()
    clock.advance(2)
    with once("k", store=store) as successor:
        assert successor.crashes == 1

    with pytest.raises(LeaseLost):
        slow.__exit__(None, None, None)


def test_a_crash_is_taken_over_after_the_lease(store: Store, clock: ManualClock) -> None:
    """A process that died in the block keeps the key no longer than its lease."""
    abandoned = once("k", store=store, lease_seconds=5)
    abandoned.__enter__()
    clock.advance(5.1)

    with once("k", store=store) as lease:
        assert lease.crashes == 1


def test_an_empty_key_and_a_bad_lease_are_refused(store: Store) -> None:
    """A key that every caller would share, or no lease at all, is a mistake."""
    with pytest.raises(ConfigurationError, match="lease_seconds"):
        once("k", store=store, lease_seconds=0).__enter__()
    with pytest.raises(ConfigurationError, match="key"):
        once("", store=store).__enter__()


def test_a_result_without_a_stored_form_is_not_lost_work(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A block whose result is no JSON is done all the same, and says that it kept no value."""
    with once("k", store=store) as lease:
        lease.result = object()

    with pytest.raises(AlreadyDone) as caught, once("k", store=store):
        pytest.fail("ran twice")
    assert caught.value.result is None
    assert "its result is not kept" in caplog.text
