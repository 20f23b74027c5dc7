"""Leases as their holders see them, and the keeper that renews them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from reliable_tasks import LeaseLost, StoreUnavailable
from reliable_tasks.core.records import Granted
from reliable_tasks.leases import Lease, LeaseKeeper
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing import eventually
from reliable_tasks.testing.clock import ManualClock

HOUR_MS = 3_600_000


class CountingStore(MemoryStore):
    """Counts its renewals, and fails them on demand."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.renewals: list[int] = []
        self.is_down = False

    def renew(self, leases: Sequence[tuple[str, int]], **terms: Any) -> list[bool]:
        if self.is_down:
            raise StoreUnavailable("renew", "down")
        self.renewals.append(len(leases))
        return super().renew(leases, **terms)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> CountingStore:
    return CountingStore(clock)


@pytest.fixture
def keeper() -> Iterator[LeaseKeeper]:
    keeper = LeaseKeeper()
    yield keeper
    for lease in list(keeper._held.values()):
        keeper.let_go(lease)


def take(store: MemoryStore, key: str = "k", *, lease_ms: int = 300, **more: Any) -> Lease:
    answer = store.claim(
        key, delivery=os.urandom(8).hex(), job=key, line=0, lease_ms=lease_ms,
        horizon_ms=HOUR_MS, max_crashes=3,
    )  # fmt: skip
    assert isinstance(answer, Granted)
    terms = {"lease_ms": lease_ms, "horizon_ms": HOUR_MS, "max_run_ms": HOUR_MS, **more}
    return Lease(store, key, answer.token, **terms)


def test_all_leases_are_renewed_in_one_step(store: CountingStore, keeper: LeaseKeeper) -> None:
    """However many leases the process holds, the store is asked once."""
    for number in range(50):
        keeper.hold(take(store, f"k{number}", lease_ms=60_000))

    assert keeper.renew_all()
    assert store.renewals == [50]


def test_a_held_lease_is_renewed_by_itself(store: CountingStore, keeper: LeaseKeeper) -> None:
    """A job that runs longer than its lease keeps it."""
    keeper.hold(take(store))

    eventually(lambda: len(store.renewals) >= 3)


def test_a_short_lease_wakes_a_sleeping_keeper(store: CountingStore, keeper: LeaseKeeper) -> None:
    """A keeper that sleeps for the sake of long leases is in time for a short one."""
    keeper.hold(take(store, "long", lease_ms=60_000))
    eventually(lambda: keeper._wakes_at > 0)

    keeper.hold(take(store, "short", lease_ms=300))

    eventually(lambda: len(store.renewals) >= 2)


def test_a_lease_let_go_is_renewed_no_more(store: CountingStore, keeper: LeaseKeeper) -> None:
    """After the settle nothing is asked of the record."""
    lease = take(store)
    keeper.hold(lease)
    keeper.let_go(lease)

    keeper.renew_all()

    assert store.renewals == []


def test_renewal_ends_at_max_run(store: CountingStore, keeper: LeaseKeeper) -> None:
    """A hung execution is not renewed for ever."""
    keeper.hold(take(store, max_run_ms=0))

    keeper.renew_all()

    assert store.renewals == []


def test_a_loss_is_told_once(store: CountingStore, clock: ManualClock, keeper: LeaseKeeper) -> None:
    """The holder of a lease that was taken over learns it, once, and it is renewed no more."""
    told: list[Lease] = []
    lease = take(store, lease_ms=60_000, on_lost=told.append)
    keeper.hold(lease)
    clock.advance(61)
    take(store)

    keeper.renew_all()
    keeper.renew_all()

    assert told == [lease]
    assert lease.lost
    with pytest.raises(LeaseLost, match="Another execution may have taken over"):
        lease.check()


def test_an_outage_loses_nothing_by_itself(store: CountingStore, keeper: LeaseKeeper) -> None:
    """A renewal that finds no store is tried again; the lease is not given up."""
    lease = take(store, lease_ms=60_000)
    keeper.hold(lease)
    store.is_down = True
    assert not keeper.renew_all()
    store.is_down = False

    assert keeper.renew_all()
    assert not lease.lost


def test_check_costs_nothing_while_the_lease_lasts(store: CountingStore) -> None:
    """The store is not asked before the lease may have ended."""
    take(store, lease_ms=60_000).check()

    assert store.renewals == []


def test_a_pause_alone_is_no_loss(store: CountingStore) -> None:
    """After a pause past the lease, check asks the store, and goes on if nobody took over."""
    lease = take(store, asked_at=-1e6, max_run_ms=2**50)
    assert lease.remaining < 0

    lease.check()

    assert store.renewals == [1]
    assert lease.remaining > 0


def test_check_renews_nothing_past_max_run(store: CountingStore) -> None:
    """A lease that has run its time is lost when it ends, though nobody took over yet."""
    lease = take(store, lease_ms=60_000, max_run_ms=0)
    lease.check()

    lease = take(store, "past", asked_at=-1e6)
    with pytest.raises(LeaseLost, match="max_run"):
        lease.check()
    assert store.renewals == []


def test_check_without_a_store_is_no_proof(store: CountingStore) -> None:
    """A lease that may have ended and cannot be asked for counts as lost."""
    lease = take(store, asked_at=-1e6, max_run_ms=2**50)
    store.is_down = True

    with pytest.raises(LeaseLost):
        lease.check()


def test_a_local_lease_is_never_lost() -> None:
    """A direct call has a lease that always holds."""
    lease = Lease(None, "direct", 1, lease_ms=30_000)

    lease.check()

    assert (lease.remaining, lease.attempt, lease.crashes, lease.lost) == (30, 1, 0, False)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_starts_with_no_leases(store: CountingStore, keeper: LeaseKeeper) -> None:
    """The parent's leases are the parent's; a child has its own thread when it needs one."""
    keeper.hold(take(store, lease_ms=60_000))
    child = os.fork()
    if child == 0:
        clean = not keeper._held and keeper._thread is None
        fresh = take(store, "child", lease_ms=300)
        keeper.hold(fresh)
        try:
            eventually(lambda: len(store.renewals) >= 1, timeout=10)
        except BaseException:
            clean = False
        os._exit(0 if clean else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_short_jobs_do_not_put_off_the_renewal_of_a_long_one(keeper: LeaseKeeper) -> None:
    """A stream of jobs with a short lease, each over at once, costs no other job its lease."""
    store = MemoryStore()
    long = take(store, "long", lease_ms=900)
    keeper.hold(long)

    for number in range(40):
        short = take(store, f"short{number}", lease_ms=150)
        keeper.hold(short)
        keeper.let_go(short)
        time.sleep(0.05)

    assert long.remaining > 0
    assert not long.lost


def test_a_thread_that_cannot_be_started_is_tried_again(
    keeper: LeaseKeeper, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is out of threads for a moment does not stop renewal for ever."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            keeper.hold(take(store))
    keeper.hold(take(store, "another"))

    eventually(lambda: store.renewals)


def test_renewal_outlives_a_fault_in_a_log_handler(
    keeper: LeaseKeeper, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in one round, the next one comes."""

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError

    monkeypatch.setattr("reliable_tasks.leases.logger.warning", fail)
    keeper.hold(take(store, "past", max_run_ms=1))
    keeper.hold(take(store))

    eventually(lambda: store.renewals)
