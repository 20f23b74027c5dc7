"""Leases as their holders see them, and the one thread that renews all of a process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Any

from reliable_tasks.core.store import Store
from reliable_tasks.errors import LeaseLost, StoreUnavailable
from reliable_tasks.processes import KEEP_MS, introduce

__all__ = ("Lease", "LeaseKeeper", "keeper")

logger = logging.getLogger("reliable_tasks")

RENEWALS_PER_LEASE = 3
RETRY_SECONDS = 1.0
LONGEST_PAUSE = 10.0  # seconds, while no lease is held
SECONDS_BETWEEN_INTRODUCTIONS = KEEP_MS / 1_000 / 4


class Lease:
    """
    The right to run one job, for as long as it is renewed.

    Attributes:
        key: The record's key.
        token: Fencing token. An integer that only rises for one key: pass it to
            whatever stores the effect and refuse a lower one there.
        attempt: Counted from 1: retries + 1, or with `retry_task` the number of the attempt.
        crashes: How many executions of the job ended before this one without an outcome.
        lost: True once it is known that the token is no longer current.
        result: What `once` records as the result; unused inside tasks.
    """

    __slots__ = (
        "_ends_at", "_horizon_ms", "_lease_ms", "_on_lost", "_renewed_at", "_store", "attempt",
        "crashes", "key", "lost", "result", "token",
    )  # fmt: skip

    def __init__(
        self,
        store: Store | None,
        key: str,
        token: int,
        *,
        lease_ms: int,
        horizon_ms: int = 0,
        max_run_ms: int = 0,
        asked_at: float | None = None,
        attempt: int = 1,
        crashes: int = 0,
        on_lost: Callable[[Lease], None] | None = None,
    ) -> None:
        """
        Hold a granted lease; for the guard, not for users.

        Args:
            store: Where the record lives; None for a local lease, which is never lost.
            key: The record's key.
            token: From the store.
            lease_ms: Length of the lease.
            horizon_ms: How long the record is kept beyond its lease.
            max_run_ms: Renewal ends so long after the start.
            asked_at: Monotonic time just before the store was asked.
            attempt: Retries + 1.
            crashes: From the store.
            on_lost: Called once, from any thread, when the loss is learned.
        """
        self._store, self._lease_ms, self._horizon_ms = store, lease_ms, horizon_ms
        self._renewed_at = monotonic() if asked_at is None else asked_at
        self._ends_at = self._renewed_at + max_run_ms / 1_000
        self._on_lost = on_lost
        self.key, self.token, self.attempt, self.crashes = key, token, attempt, crashes
        self.lost = False
        self.result: Any = None

    def __repr__(self) -> str:
        return f"<Lease {self.key} token={self.token} attempt={self.attempt} lost={self.lost}>"

    @property
    def remaining(self) -> float:
        """Seconds until the lease ends unless it is renewed; below 0 after a pause."""
        if self._store is None:
            return self._lease_ms / 1_000
        return self._renewed_at + self._lease_ms / 1_000 - monotonic()

    def check(self) -> None:
        """
        Do nothing while the lease is held; call it before an effect that must not be doubled.

        Costs nothing unless the process was paused so long that the lease may
        have ended: then the store is asked, which renews the lease if nobody took
        over. Beyond max_run nothing renews it: once it has ended, it is lost.

        Raises:
            LeaseLost: Another execution may have taken over. Stop; what this one
                returns or raises will not be stored.
        """
        if self._store is None or (not self.lost and self.remaining > 0):
            return
        if not self.lost and not self.is_past_max_run:
            self._ask(self._store)
        if self.lost or self.remaining <= 0:
            raise LeaseLost(self.key, self._lease_ms / 1_000, monotonic() - self._renewed_at)

    def _ask(self, store: Store) -> None:
        asked_at = monotonic()
        try:
            [ours] = store.renew(
                [(self.key, self.token)], lease_ms=self._lease_ms, horizon_ms=self._horizon_ms
            )
        except StoreUnavailable:
            return
        self.note(ours, asked_at)

    def note(self, ours: bool, asked_at: float) -> None:
        """Take the store's answer to a renewal that was asked at *asked_at* (monotonic)."""
        if ours:
            self._renewed_at = asked_at
        elif not self.lost:
            self.lost = True
            if self._on_lost is not None:
                self._on_lost(self)

    def end(self) -> None:
        """Tell nobody of a loss any more: the outcome is recorded."""
        self._on_lost = None

    @property
    def terms(self) -> tuple[Store, int, int] | None:
        """What leases must share to be renewed in one step."""
        return None if self._store is None else (self._store, self._lease_ms, self._horizon_ms)

    @property
    def seconds_between_renewals(self) -> float:
        """How often it must be renewed."""
        return self._lease_ms / 1_000 / RENEWALS_PER_LEASE

    @property
    def due_at(self) -> float:
        """Monotonic time of its next renewal."""
        return self._renewed_at + self.seconds_between_renewals

    @property
    def is_past_max_run(self) -> bool:
        """Whether it may no longer be renewed."""
        return monotonic() >= self._ends_at


class LeaseKeeper:
    """
    Renews every lease of the process from one thread, started when first needed.

    All leases of equal terms are renewed in one round trip, three times a lease.
    A forked child begins with no leases and no thread.
    """

    on_turn: Callable[[], None] | None = None
    """Called by the thread at each of its turns, three times a lease at least; must not raise."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._held: dict[int, Lease] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._wakes_at = 0.0
        self._idle_pause = LONGEST_PAUSE
        self._thread: threading.Thread | None = None
        self._introductions: dict[tuple[Store, str], float] = {}  # when each is due, monotonic

    def introduce(self, store: Store, prefix: str) -> None:
        """Let the thread note in *store* who this process is, now and from time to time."""
        self._introductions[store, prefix] = 0.0
        self._wake.set()
        with suppress(RuntimeError):  # no thread can be started: `hold` says so
            self._start()

    def hold(self, lease: Lease) -> None:
        """Renew *lease* until it is let go, lost, or past its max_run."""
        self._held[id(lease)] = lease
        if self._thread is None:
            self._start()
        pause = lease.seconds_between_renewals
        if monotonic() + pause < self._wakes_at:
            self._idle_pause = min(self._idle_pause, pause)  # the next of its kind wakes nobody
            self._wake.set()

    def let_go(self, lease: Lease) -> None:
        """Renew *lease* no more."""
        self._held.pop(id(lease), None)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(
                    target=self._run, name="reliable-tasks-leases", daemon=True
                )
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        renewed = True
        while True:
            if self.on_turn is not None:
                self.on_turn()
            self._wakes_at = inf  # a lease that comes from here on wakes the thread
            pause = self._pause(renewed)
            self._wakes_at = monotonic() + pause
            if self._wake.wait(pause):
                self._wake.clear()
            else:
                renewed = self._renew_safely()
            self._introduce()

    def _introduce(self) -> None:
        """Note who this process is where that is due; it only informs."""
        for (store, prefix), due_at in list(self._introductions.items()):
            if monotonic() < due_at:
                continue
            self._introductions[store, prefix] = monotonic() + SECONDS_BETWEEN_INTRODUCTIONS
            try:
                introduce(store, prefix)
            except Exception as error:
                self._introductions[store, prefix] = monotonic() + LONGEST_PAUSE
                logger.debug("this process could not be noted in the store: %s", error)

    def _pause(self, renewed: bool) -> float:
        """Seconds until the first lease is due; after a round that failed, a little."""
        leases = list(self._held.values())
        if not renewed:
            return min((RETRY_SECONDS, *(lease.seconds_between_renewals for lease in leases)))
        due_at = min((lease.due_at for lease in leases), default=monotonic() + self._idle_pause)
        return max(0.0, due_at - monotonic())

    def _renew_safely(self) -> bool:
        try:
            return self.renew_all()
        except Exception:  # the thread must outlive a fault in one round, even one of logging
            return False

    def renew_all(self) -> bool:
        """Renew what is held now, one round trip for equal terms; returns whether all answered."""
        groups: dict[Any, list[Lease]] = {}
        for lease in list(self._held.values()):
            if lease.is_past_max_run:
                self.let_go(lease)
                logger.warning("%s runs past its max_run and is renewed no longer", lease.key)
            elif lease.terms is not None:
                groups.setdefault(lease.terms, []).append(lease)
        answered = [self._renew(terms, leases) for terms, leases in groups.items()]
        return all(answered)

    def _renew(self, terms: tuple[Store, int, int], leases: list[Lease]) -> bool:
        store, lease_ms, horizon_ms = terms
        asked_at = monotonic()
        try:
            answers = store.renew(
                [(lease.key, lease.token) for lease in leases],
                lease_ms=lease_ms,
                horizon_ms=horizon_ms,
            )
        except StoreUnavailable as error:
            logger.warning("%d leases were not renewed: %s", len(leases), error)
            return False
        except Exception:  # the thread must outlive a fault in one round
            logger.exception("%d leases were not renewed", len(leases))
            return False
        for lease, ours in zip(leases, answers, strict=True):
            if id(lease) in self._held:  # else it was settled meanwhile, which is no loss
                lease.note(ours, asked_at)
                if lease.lost:
                    self.let_go(lease)
        return True


keeper = LeaseKeeper()
"""The process's keeper."""
