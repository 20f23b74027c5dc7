"""Records in this process: for eager mode, tests, and the model of every other store."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from threading import Lock

from reliable_tasks.core import decisions, reservations
from reliable_tasks.core.clock import Clock
from reliable_tasks.core.decisions import Claim
from reliable_tasks.core.limits import (
    Breaker,
    BreakerTerms,
    Budget,
    BudgetTerms,
    Counts,
    Passage,
)
from reliable_tasks.core.records import (
    Answer,
    Confirmation,
    Duplicate,
    Outcome,
    Record,
    Reservation,
    Reserved,
    Settled,
    Stale,
)
from reliable_tasks.core.store import SURPLUS_AT_ONCE

__all__ = ("MemoryStore",)

SWEEP_FROM = 1_000


class SystemClock:
    """The time of this machine."""

    def now_us(self) -> int:
        """Return microseconds since 1970."""
        return time.time_ns() // 1_000


class MemoryStore:
    """
    A store inside one process, safe to share between its threads.

    What it keeps ends with the process, and a forked child goes on with a copy
    of its own, so it guards nothing across processes.

    Args:
        clock: Judges leases, retention and expiry; the system's clock if left out.
    """

    identity = "memory"

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = SystemClock() if clock is None else clock
        self._lock = Lock()
        self._records: dict[str, Record] = {}
        self._sweep_at = SWEEP_FROM
        self._shelves: dict[str, dict[str, tuple[int, bytes]]] = {}
        self._lists: dict[str, tuple[int, list[bytes]]] = {}  # until when, ms, and the lines
        self._budgets: defaultdict[str, Budget] = defaultdict(Budget)
        self._breakers: defaultdict[str, Breaker] = defaultdict(Breaker)

    def __repr__(self) -> str:
        return f"<MemoryStore of {len(self._records)} records>"

    def clear(self) -> None:
        """Forget all records, all dead letters, and what was counted."""
        with self._lock:
            for kept in (
                self._records,
                self._shelves,
                self._lists,
                self._budgets,
                self._breakers,
            ):
                kept.clear()

    def claim(
        self,
        key: str,
        *,
        delivery: str,
        job: str,
        line: int,
        lease_ms: int,
        horizon_ms: int,
        max_crashes: int,
        payload: str = "",
        abandoned: Sequence[str] = (),
        turn: int = 0,
    ) -> Answer:
        ask = Claim(
            delivery=delivery,
            job=job,
            line=line,
            lease_ms=lease_ms,
            horizon_ms=horizon_ms,
            max_crashes=max_crashes,
            payload=payload,
            abandoned=abandoned,
            turn=turn,
        )
        with self._lock:
            now_us = self._clock.now_us()
            record, answer = decisions.claim(self._find(key, now_us), ask, now_us)
            self._keep(key, record, now_us)
        return answer

    def renew(
        self, leases: Sequence[tuple[str, int]], *, lease_ms: int, horizon_ms: int
    ) -> list[bool]:
        with self._lock:
            now_us = self._clock.now_us()
            return [
                decisions.renew(self._find(key, now_us), token, lease_ms, horizon_ms, now_us)
                for key, token in leases
            ]

    def settle(
        self, key: str, *, token: int, job: str, line: int, outcome: Outcome, horizon_ms: int
    ) -> Settled | Stale:
        with self._lock:
            now_us = self._clock.now_us()
            record, answer = decisions.settle(
                self._find(key, now_us),
                token=token,
                job=job,
                line=line,
                outcome=outcome,
                horizon_ms=horizon_ms,
                now_us=now_us,
            )
            self._keep(key, record, now_us)
        return answer

    def close(self, key: str, *, job: str, horizon_ms: int, line: int | None = None) -> None:
        with self._lock:
            now_us = self._clock.now_us()
            decisions.close(self._find(key, now_us), job, line, horizon_ms, now_us)

    def spare(self, key: str, *, job: str, delivery: str) -> None:
        with self._lock:
            decisions.spare(self._find(key, self._clock.now_us()), job, delivery)

    def end(self, key: str, *, job: str, killed: bool, horizon_ms: int) -> None:
        with self._lock:
            now_us = self._clock.now_us()
            record = decisions.end(self._find(key, now_us), job, killed, horizon_ms, now_us)
            self._keep(key, record, now_us)

    def drain(self, jobs: Sequence[tuple[str, str]]) -> None:
        with self._lock:
            now_us = self._clock.now_us()
            for key, job in jobs:
                decisions.drain(self._find(key, now_us), job)

    def advance(self, key: str, *, job: str, line: int, horizon_ms: int) -> None:
        with self._lock:
            now_us = self._clock.now_us()
            record = decisions.advance(self._find(key, now_us), job, line, horizon_ms, now_us)
            self._keep(key, record, now_us)

    def reserve(self, asks: Sequence[tuple[str, Reservation]]) -> list[Reserved | Duplicate]:
        answers = []
        with self._lock:
            now_us = self._clock.now_us()
            for key, ask in asks:
                record, answer = reservations.reserve(self._find(key, now_us), ask, now_us)
                self._keep(key, record, now_us)
                answers.append(answer)
        return answers

    def begin_reserve(self, key: str, ask: Reservation) -> Callable[[], Reserved | Duplicate]:
        [answer] = self.reserve([(key, ask)])
        return lambda: answer

    def confirm(self, words: Sequence[tuple[str, Confirmation]]) -> None:
        with self._lock:
            now_us = self._clock.now_us()
            for key, word in words:
                reservations.confirm(self._find(key, now_us), word, now_us)

    def unreserve(self, key: str, *, job: str) -> None:
        with self._lock:
            if reservations.unreserve(self._find(key, self._clock.now_us()), job) is None:
                self._records.pop(key, None)

    def peek(self, key: str) -> Record | None:
        with self._lock:
            return deepcopy(self._find(key, self._clock.now_us()))

    def forget(self, key: str) -> bool:
        with self._lock:
            found = self._find(key, self._clock.now_us())
            self._records.pop(key, None)
        return found is not None

    def scan(self, prefix: str = "") -> Iterator[str]:
        with self._lock:
            self._sweep(self._clock.now_us())
            keys = [key for key in self._records if key.startswith(prefix)]
        return iter(keys)

    def reopen(self, key: str, *, job: str, line: int, horizon_ms: int) -> bool:
        with self._lock:
            now_us = self._clock.now_us()
            record, is_open = decisions.reopen(
                self._find(key, now_us), job, line, horizon_ms, now_us
            )
            self._keep(key, record, now_us)
        return is_open

    def jot(self, name: str, line: bytes, *, most: int, keep_ms: int) -> None:
        with self._lock:
            now_ms = self._now_ms()
            lines = [*self._lines(name), line][-most:]
            self._lists[name] = now_ms + keep_ms, lines
            for each in [each for each, (until_ms, _) in self._lists.items() if until_ms < now_ms]:
                del self._lists[each]

    def jot_each(self, lines: Sequence[tuple[str, bytes]], *, most: int, keep_ms: int) -> None:
        for name, line in lines:
            self.jot(name, line, most=most, keep_ms=keep_ms)

    def jottings(self, name: str) -> list[bytes]:
        with self._lock:
            return list(self._lines(name))

    def _lines(self, name: str) -> list[bytes]:
        until_ms, lines = self._lists.get(name, (0, []))
        return lines if self._now_ms() <= until_ms else []

    def bury(
        self, shelf: str, job: str, letter: bytes, *, at_ms: int, most: int, oldest_ms: int
    ) -> list[tuple[str, int]]:
        with self._lock:
            letters = self._shelves.setdefault(shelf, {})
            letters[job] = at_ms, letter
            by_age = sorted((each_ms, other) for other, (each_ms, _) in letters.items())
        oldest = by_age[:SURPLUS_AT_ONCE]
        return [
            (other, each_ms)
            for place, (each_ms, other) in enumerate(oldest)
            if other != job and (each_ms < at_ms - oldest_ms or place < len(by_age) - most)
        ]

    def letters(self, shelf: str) -> Iterator[tuple[str, bytes]]:
        with self._lock:
            found = [(job, letter) for job, (_, letter) in self._shelves.get(shelf, {}).items()]
        return iter(found)

    def letter(self, shelf: str, job: str) -> bytes | None:
        with self._lock:
            found = self._shelves.get(shelf, {}).get(job)
        return None if found is None else found[1]

    def letter_count(self, shelf: str) -> int:
        with self._lock:
            return len(self._shelves.get(shelf, {}))

    def unbury(self, shelf: str, job: str, *, at_ms: int) -> bool:
        with self._lock:
            letters = self._shelves.get(shelf, {})
            is_there = job in letters and letters[job][0] == at_ms
            if is_there:
                del letters[job]
        return is_there

    def withdraw(
        self, key: str, *, token: str, wait_ms: int, calls: Counts, terms: BudgetTerms
    ) -> int:
        with self._lock:
            return self._budgets[key].withdraw(token, wait_ms, calls, terms, self._now_ms())

    def admit(self, key: str, *, token: str, successes: Counts, terms: BreakerTerms) -> Passage:
        with self._lock:
            return self._breakers[key].admit(token, successes, terms, self._now_ms())

    def report(
        self, key: str, *, token: str, failed: bool, successes: Counts, terms: BreakerTerms
    ) -> int:
        with self._lock:
            return self._breakers[key].report(token, failed, successes, terms, self._now_ms())

    def _now_ms(self) -> int:
        return self._clock.now_us() // 1_000

    def _find(self, key: str, now_us: int) -> Record | None:
        record = self._records.get(key)
        if record is not None and _is_over(record, now_us):
            del self._records[key]
            return None
        return record

    def _keep(self, key: str, record: Record, now_us: int) -> None:
        self._records[key] = record
        if len(self._records) > self._sweep_at:
            self._sweep(now_us)
            self._sweep_at = max(SWEEP_FROM, 2 * len(self._records))

    def _sweep(self, now_us: int) -> None:
        """Delete what nobody may ask for again."""
        for key in [key for key, each in self._records.items() if _is_over(each, now_us)]:
            del self._records[key]


def _is_over(record: Record, now_us: int) -> bool:
    return record.expires_ms is not None and record.expires_ms < now_us // 1_000
