"""What the memory store does beyond the contract."""

from __future__ import annotations

import time

from reliable_tasks.core.records import Granted
from reliable_tasks.stores.memory import SWEEP_FROM, MemoryStore
from reliable_tasks.testing import ManualClock


def start(store: MemoryStore, key: str, *, lease_ms: int = 1_000) -> int:
    answer = store.claim(
        key,
        delivery=f"of {key}",
        job="job",
        line=0,
        lease_ms=lease_ms,
        horizon_ms=1_000,
        max_crashes=3,
    )
    assert isinstance(answer, Granted)
    return answer.token


def test_its_name_says_what_it_is() -> None:
    """The place of the records is named in headers and warnings."""
    assert MemoryStore().identity == "memory"


def test_the_clock_can_be_moved() -> None:
    """Time passes only as the test says, to the microsecond, and can be set back."""
    clock = ManualClock(1_000.0)
    assert clock.now_us() == clock.now_us() == 1_000_000_000
    clock.advance(0.000_001)
    assert clock.now_us() == 1_000_000_001
    clock.advance(-1)
    assert clock.now_us() == 999_000_001


def test_the_given_clock_is_the_judge() -> None:
    """Tokens, leases and expiry follow the clock that was given."""
    clock = ManualClock(1_000.0)
    store = MemoryStore(clock)

    assert start(store, "k") == 1_000_000_000
    record = store.peek("k")
    assert record is not None
    assert (record.until_ms, record.expires_ms) == (1_001_000, 1_002_000)
    clock.advance(2.0)
    assert store.peek("k") is not None
    clock.advance(0.001)
    assert store.peek("k") is None


def test_without_a_clock_the_systems_is_taken() -> None:
    """In production tokens are microseconds since 1970."""
    before = time.time_ns() // 1_000
    token = start(MemoryStore(), "k")

    assert before <= token <= time.time_ns() // 1_000


def test_stores_share_nothing() -> None:
    """Each store has records and letters of its own."""
    one, other = MemoryStore(), MemoryStore()
    start(one, "k")
    one.bury("shelf", "job", b"letter", at_ms=1, most=9, oldest_ms=9)

    assert other.peek("k") is None
    assert list(other.letters("shelf")) == []


def test_a_cleared_store_is_as_new() -> None:
    """Nothing is left of records and letters."""
    store = MemoryStore()
    start(store, "k")
    store.bury("shelf", "job", b"letter", at_ms=1, most=9, oldest_ms=9)
    store.clear()

    assert (list(store.scan()), list(store.letters("shelf"))) == ([], [])
    start(store, "k")


def test_records_of_the_past_take_no_room() -> None:
    """A process that lives long does not keep what nobody may ask for again."""
    clock = ManualClock()
    store = MemoryStore(clock)
    for number in range(10 * SWEEP_FROM):
        start(store, f"k{number}", lease_ms=1)
        clock.advance(0.1)

    assert len(store._records) <= SWEEP_FROM + 1


def test_records_of_the_present_are_kept() -> None:
    """However many records there are, none goes before its time."""
    store = MemoryStore(ManualClock())
    names = {f"k{number}" for number in range(3 * SWEEP_FROM)}
    for name in names:
        start(store, name)

    assert set(store.scan()) == names


def test_letters_can_be_buried_while_they_are_read() -> None:
    """Operators see the shelf as it was when they asked."""
    store = MemoryStore()
    store.bury("shelf", "one", b"1", at_ms=1, most=9, oldest_ms=9)
    letters = store.letters("shelf")
    store.bury("shelf", "two", b"2", at_ms=1, most=9, oldest_ms=9)

    assert list(letters) == [("one", b"1")]
    assert sorted(store.letters("shelf")) == [("one", b"1"), ("two", b"2")]
