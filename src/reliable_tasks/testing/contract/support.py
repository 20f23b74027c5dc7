"""One key of a store under test, and what every part of the contract stands on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol
from uuid import uuid4

import pytest

from reliable_tasks.core.lines import line_of
from reliable_tasks.core.records import (
    Answer,
    Busy,
    Confirmation,
    Duplicate,
    Granted,
    Outcome,
    Poisoned,
    Record,
    Reservation,
    Reserved,
    Settled,
    Stale,
    State,
)
from reliable_tasks.core.store import Store

__all__ = ("Elapse", "Fixtures", "OneKey", "Plant", "busy", "same")

LEASE_MS = 600_000  # for ever, as far as a test is concerned
HORIZON_MS = 36_000_000
KEEP_MS = 6_000_000
SOON_MS = 4  # over once a test has let time pass
GRACE_MS = 250  # over after that too, but not before the next question of a busy machine
CLOSE_MS = 60_000  # how far two readings of a clock may be apart
RETRY = line_of(1, 0)
HOP = line_of(0, 1)
ODD_NAMES = (
    "with space", "line\nbreak", "pipe|pipe", "a:b@c=", "{tag}", "*?[x]^\\", "%d%s%%", "'\"$(x)",
    "g\u00fcltig-\u043a\u043b\u044e\u0447-\u9375-\U0001f511", "nul\x00byte", "0", "-1", "x" * 512,
)  # fmt: skip

Plant = Callable[[str, str], None]
"""Overwrites the state of the record of a key with any letter."""


class Elapse(Protocol):
    """What the fixture `elapse` is."""

    def __call__(self, *, ms: int) -> None:
        """Let at least *ms* milliseconds pass on the store's clock."""
        ...


@dataclass
class OneKey:
    """A key of a store, with all the arguments that a test does not speak about."""

    store: Store
    elapse: Elapse
    key: str = field(default_factory=lambda: f"rt1:contract:{uuid4().hex}")
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def claim(
        self,
        job: str = "job",
        line: int = 0,
        *,
        delivery: str | None = None,
        lease_ms: int = LEASE_MS,
        horizon_ms: int = HORIZON_MS,
        max_crashes: int = 3,
        payload: str = "",
        abandoned: Sequence[str] = (),
        turn: int = 0,
    ) -> Answer:
        """Ask for *job*, with a new delivery if none is given."""
        return self.store.claim(
            self.key,
            delivery=delivery or f"delivery-{next(self._numbers)}",
            job=job,
            line=line,
            lease_ms=lease_ms,
            horizon_ms=horizon_ms,
            max_crashes=max_crashes,
            payload=payload,
            abandoned=abandoned,
            turn=turn,
        )

    def start(self, job: str = "job", line: int = 0, **terms: Any) -> int:
        """Claim, see that it is granted, and return the token."""
        answer = self.claim(job, line, **terms)
        assert isinstance(answer, Granted)
        return answer.token

    def lapse(self, job: str = "job", line: int = 0, **terms: Any) -> int:
        """Start an execution of which nothing is heard until its lease is over."""
        token = self.start(job, line, lease_ms=SOON_MS, **terms)
        self.elapse(ms=2 * SOON_MS)
        return token

    def settle(
        self,
        token: int,
        job: str = "job",
        line: int = 0,
        *,
        state: State = State.DONE,
        data: bytes | None = None,
        keep_ms: int = 0,
        died: bool = False,
        horizon_ms: int = HORIZON_MS,
    ) -> Settled | Stale:
        """Settle with the parts of an outcome."""
        outcome = Outcome(state, data, keep_ms, died)
        return self.store.settle(
            self.key, token=token, job=job, line=line, outcome=outcome, horizon_ms=horizon_ms
        )

    def run(self, job: str = "job", line: int = 0, **outcome: Any) -> int:
        """Start and settle; returns the token."""
        token = self.start(job, line)
        assert self.settle(token, job, line, **outcome) == Settled()
        return token

    def renew(self, token: int, *, lease_ms: int = LEASE_MS, horizon_ms: int = HORIZON_MS) -> bool:
        """Renew one lease."""
        [answer] = self.store.renew([(self.key, token)], lease_ms=lease_ms, horizon_ms=horizon_ms)
        return answer

    def close(
        self, job: str = "job", *, horizon_ms: int = HORIZON_MS, line: int | None = None
    ) -> None:
        """Close *job*."""
        self.store.close(self.key, job=job, horizon_ms=horizon_ms, line=line)

    def spare(self, delivery: str, job: str = "job") -> None:
        """Take a replay of *job* off the count."""
        self.store.spare(self.key, job=job, delivery=delivery)

    def end(self, job: str = "job", *, killed: bool = True, horizon_ms: int = HORIZON_MS) -> None:
        """End *job* by the main process's word."""
        self.store.end(self.key, job=job, killed=killed, horizon_ms=horizon_ms)

    def drain(self, job: str = "job") -> None:
        """Announce the end of the process that runs *job*."""
        self.store.drain([(self.key, job)])

    def advance(self, job: str = "job", line: int = HOP, *, horizon_ms: int = HORIZON_MS) -> None:
        """Note that the message of *job* at *line* was published."""
        self.store.advance(self.key, job=job, line=line, horizon_ms=horizon_ms)

    def reserve(
        self, job: str = "job", *, grace_ms: int = LEASE_MS, **terms: Any
    ) -> Reserved | Duplicate:
        """Ask whether *job* may be published."""
        [answer] = self.store.reserve([(self.key, Reservation(job, grace_ms, **terms))])
        return answer

    def publish(
        self, job: str = "job", *, keep_ms: int = KEEP_MS, hold_ms: int = 0, **terms: Any
    ) -> int:
        """Reserve and confirm, as if it was published; returns its turn."""
        answer = self.reserve(job, hold_ms=hold_ms, **terms)
        assert isinstance(answer, Reserved)
        self.confirm(job, keep_ms=keep_ms, hold_ms=hold_ms)
        return answer.turn

    def confirm(self, job: str = "job", *, keep_ms: int = KEEP_MS, hold_ms: int = 0) -> None:
        """Say that *job* was published."""
        self.store.confirm([(self.key, Confirmation(job, keep_ms, hold_ms))])

    def unreserve(self, job: str = "job") -> None:
        """Take the reservation of *job* back."""
        self.store.unreserve(self.key, job=job)

    def quarantine(self, job: str = "job") -> None:
        """Quarantine the key after one death."""
        self.lapse(job)
        assert self.claim(job, max_crashes=1) == Poisoned(1)

    @property
    def record(self) -> Record:
        """The record, which must be there."""
        found = self.store.peek(self.key)
        assert found is not None
        return found

    @property
    def now_ms(self) -> int:
        """The time on the store's clock."""
        other = OneKey(self.store, self.elapse)
        other.start()
        return other.record.until_ms - LEASE_MS

    def is_kept_for(self, ms: int) -> bool:
        """Whether the record will be forgotten *ms* from now."""
        expires_ms = self.record.expires_ms
        return expires_ms is not None and abs(expires_ms - self.now_ms - ms) < CLOSE_MS


class Fixtures:
    """What the tests of the contract stand on."""

    @pytest.fixture
    def elapse(self) -> Elapse:
        """Let time pass by sleeping; override it for a clock that can be moved."""

        def sleep(*, ms: int) -> None:
            time.sleep(ms / 1_000)

        return sleep

    @pytest.fixture
    def key(self, store: Store, elapse: Elapse) -> OneKey:
        """A key that no other test uses."""
        return OneKey(store, elapse)


def busy(answer: Answer) -> tuple[bool, bool]:
    """The flags of an answer that must be `Busy`."""
    assert isinstance(answer, Busy)
    assert 0 < answer.remaining_ms <= max(LEASE_MS, KEEP_MS)
    return answer.same_job, answer.newer


def same(after: Record, before: Record) -> bool:
    """Whether nothing changed; expiry is read from a clock that goes on."""
    if (after.expires_ms is None) != (before.expires_ms is None):
        return False
    drift_ms = abs((after.expires_ms or 0) - (before.expires_ms or 0))
    assert replace(after, expires_ms=None) == replace(before, expires_ms=None)
    return drift_ms < CLOSE_MS
