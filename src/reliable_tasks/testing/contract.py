"""
What every store promises, as tests.

Check a store of your own::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self):
            return MyStore(...)

        @pytest.fixture
        def plant(self, store):
            def plant(key, state):  # overwrite the state of an existing record
                ...

            return plant

The tests use keys of their own, so the store need not be empty. They wait for
leases by sleeping a few milliseconds; a store with a clock that can be moved
overrides the fixture `elapse`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import count
from threading import Barrier
from typing import Any, Protocol
from uuid import uuid4

import pytest

from reliable_tasks.core.records import (
    MAX_FACTS,
    Answer,
    Busy,
    Finished,
    Granted,
    Outcome,
    Poisoned,
    Record,
    Reused,
    Settled,
    Stale,
    State,
    Superseded,
    Unreadable,
    line_of,
)
from reliable_tasks.core.store import Store

__all__ = ("Elapse", "OneKey", "Plant", "StoreContract")

LEASE_MS = 600_000  # for ever, as far as a test is concerned
HORIZON_MS = 36_000_000
KEEP_MS = 6_000_000
SOON_MS = 4  # over once a test has let time pass
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

    def close(self, job: str = "job", *, horizon_ms: int = HORIZON_MS) -> None:
        """Close *job*."""
        self.store.close(self.key, job=job, horizon_ms=horizon_ms)

    def end(self, job: str = "job", *, killed: bool = True, horizon_ms: int = HORIZON_MS) -> None:
        """End *job* by the main process's word."""
        self.store.end(self.key, job=job, killed=killed, horizon_ms=horizon_ms)

    def drain(self, job: str = "job") -> None:
        """Announce the end of the process that runs *job*."""
        self.store.drain([(self.key, job)])

    def advance(self, job: str = "job", line: int = HOP, *, horizon_ms: int = HORIZON_MS) -> None:
        """Note that the message of *job* at *line* was published."""
        self.store.advance(self.key, job=job, line=line, horizon_ms=horizon_ms)

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


class _Fixtures:
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


class _Claims(_Fixtures):
    """The table: who may run, by the state of the record."""

    def test_is_a_store(self, store: Store) -> None:
        """It has every method of the protocol, and a name for the place of its records."""
        assert isinstance(store, Store)
        assert store.identity

    # no record

    def test_a_new_key_is_granted(self, key: OneKey) -> None:
        """The first to ask runs."""
        answer = key.claim()

        assert isinstance(answer, Granted)
        assert answer.token > 0
        assert answer.crashes == 0

    def test_without_a_record_any_copy_is_granted(self, key: OneKey) -> None:
        """A copy of any age runs if nothing is known of its job."""
        key.start(line=RETRY + HOP)

        assert key.record.line == RETRY + HOP

    def test_a_grant_is_written_down(self, key: OneKey) -> None:
        """A record says who runs, under which token, and until when."""
        now_ms = key.now_ms
        token = key.start("job", RETRY, delivery="d", payload="p")

        record = key.record
        assert (record.state, record.job, record.token) == (State.RUNNING, "job", token)
        assert (record.line, record.retries, record.payload) == (RETRY, 1, "p")
        assert record.delivery == "d"
        assert 0 <= record.until_ms - LEASE_MS - now_ms < CLOSE_MS
        assert key.is_kept_for(LEASE_MS + HORIZON_MS)

    # the same question twice

    def test_a_repeated_claim_gets_the_same_token(self, key: OneKey) -> None:
        """A claim whose reply was lost is answered the same, and does not lengthen the lease."""
        first = key.claim(delivery="d")
        before = key.record

        assert key.claim(delivery="d") == first
        assert _same(key.record, before)

    def test_a_repeated_takeover_counts_one_crash(self, key: OneKey) -> None:
        """A takeover whose reply was lost is the same takeover."""
        key.lapse()
        first = key.claim(delivery="d")

        assert isinstance(first, Granted)
        assert first.crashes == 1
        assert key.claim(delivery="d") == first

    def test_a_repeated_claim_still_holds_when_newer_messages_are_known(self, key: OneKey) -> None:
        """Who holds the lease is told so again, whatever was published meanwhile."""
        first = key.claim(delivery="d")
        key.advance(line=RETRY)

        assert key.claim(delivery="d") == first

    def test_a_repeated_claim_of_a_settled_execution_runs_nothing(self, key: OneKey) -> None:
        """A question that arrives after its own execution was settled is answered without effect."""
        done = key.start(delivery="done")
        key.settle(done, data=b"result")
        late = key.claim(delivery="done")
        assert isinstance(late, Finished)
        assert key.record.state is State.DONE
        assert key.record.replays == 0

        other = OneKey(key.store, key.elapse)
        released = other.start(delivery="released")
        other.settle(released, state=State.IDLE)
        assert other.claim(delivery="released") == Superseded("repeated")
        assert other.record.state is State.IDLE

    def test_a_repeated_replay_counts_once(self, key: OneKey) -> None:
        """A replay whose reply was lost is the same replay."""
        key.run(data=b"result")
        first = key.claim(delivery="d")

        assert first == Finished(State.DONE, b"result", same_job=True, replays=1)
        assert key.claim(delivery="d") == first

    # running, lease live

    def test_a_copy_waits_for_its_running_job(self, key: OneKey) -> None:
        """While the lease is live, a copy of the job is told to wait and for how long."""
        key.start()
        answer = key.claim()

        assert isinstance(answer, Busy)
        assert LEASE_MS - CLOSE_MS < answer.remaining_ms <= LEASE_MS
        assert (answer.same_job, answer.newer) == (True, False)

    def test_a_deferred_copy_is_no_newer_attempt(self, key: OneKey) -> None:
        """More hops do not make a copy the running execution's own retry."""
        key.start()

        assert _busy(key.claim(line=HOP)) == (True, False)

    def test_a_retry_that_overtakes_its_settle_is_known_as_such(self, key: OneKey) -> None:
        """A copy with more retries than the running execution is its own retry, soon free to run."""
        key.start(line=HOP)

        assert _busy(key.claim(line=RETRY)) == (True, True)

    def test_the_retry_of_an_execution_is_judged_by_its_own_retries(self, key: OneKey) -> None:
        """A message that is known but was not granted does not make its own copies older or newer."""
        key.start(line=HOP)
        key.advance(line=RETRY)

        assert _busy(key.claim(line=RETRY)) == (True, True)

    def test_an_older_copy_is_dropped_while_its_job_runs(self, key: OneKey) -> None:
        """A copy is dropped if a newer message of its job exists."""
        key.start(line=RETRY)

        assert key.claim(line=HOP) == Superseded("older")

    def test_another_job_is_told_that_the_key_is_busy(self, key: OneKey) -> None:
        """At most one execution of a key holds a live lease."""
        key.start("a")

        for line in (0, RETRY):
            assert _busy(key.claim("b", line)) == (False, False)

    def test_asking_changes_nothing_while_the_lease_is_live(self, key: OneKey) -> None:
        """Whoever is told to wait or to go leaves the record as it was."""
        key.start("a", RETRY, payload="p")
        before = key.record

        key.claim("a", RETRY)
        key.claim("a", HOP)
        key.claim("b")
        key.claim("b", payload="q")

        assert _same(key.record, before)

    # running, lease over

    @pytest.mark.parametrize("job", ["a", "b"])
    def test_a_dead_execution_is_taken_over(self, key: OneKey, job: str) -> None:
        """After the lease any job of the key runs, with a higher token and one crash counted."""
        dead = key.lapse("a")
        answer = key.claim(job)

        assert isinstance(answer, Granted)
        assert answer.token > dead
        assert answer.crashes == 1
        assert key.record.suspects == (dead,)

    def test_an_older_copy_is_dropped_after_the_lease_too(self, key: OneKey) -> None:
        """The newer message of a dead execution's job takes over, not an older one."""
        key.lapse(line=RETRY)
        before = key.record

        assert key.claim(line=HOP) == Superseded("older")
        assert _same(key.record, before)

    def test_a_renewed_lease_is_not_over(self, key: OneKey) -> None:
        """Renewal moves the end of the lease."""
        token = key.start(lease_ms=SOON_MS)
        key.renew(token)
        key.elapse(ms=2 * SOON_MS)

        assert _busy(key.claim()) == (True, False)

    def test_a_takeover_counts_retries_anew(self, key: OneKey) -> None:
        """After a takeover by a retry, the retry of that retry is the newer one."""
        key.lapse()
        key.start(line=RETRY)

        assert _busy(key.claim(line=RETRY)) == (True, False)
        assert _busy(key.claim(line=2 * RETRY)) == (True, True)

    def test_tokens_of_a_key_rise(self, key: OneKey) -> None:
        """Each grant has a higher token than all before, whoever gets it and for what reason."""
        tokens = [
            key.lapse("a"),
            key.run("a", state=State.IDLE),
            key.run("b", state=State.RETRYING),
            key.run("b", RETRY, state=State.FAILED),
            key.lapse("c"),
            key.run("d"),
            key.start("e"),
        ]

        assert tokens == sorted(set(tokens))

    def test_of_many_at_once_one_is_granted(self, key: OneKey) -> None:
        """Racing deliveries of several jobs get one lease between them."""
        racers = 8
        barrier = Barrier(racers)

        def race(number: int) -> Answer:
            barrier.wait(30)
            return key.claim(f"job-{number % 3}", delivery=f"racer-{number}")

        with ThreadPoolExecutor(racers) as pool:
            answers = list(pool.map(race, range(racers)))

        assert sum(isinstance(answer, Granted) for answer in answers) == 1
        assert sum(isinstance(answer, Busy) for answer in answers) == racers - 1

    # retrying

    def test_the_retry_is_granted_at_any_time(self, key: OneKey) -> None:
        """A waiting retry runs when its message comes, before its time or after, without a crash."""
        for keep_ms in (KEEP_MS, 0):
            fresh = OneKey(key.store, key.elapse)
            fresh.run(state=State.RETRYING, keep_ms=keep_ms)
            assert fresh.claim(line=RETRY) == Granted(fresh.record.token, 0)

    @pytest.mark.parametrize("keep_ms", [KEEP_MS, 0])
    def test_a_copy_from_before_the_retry_is_dropped(self, key: OneKey, keep_ms: int) -> None:
        """Once a retry is settled, redelivered copies of the attempt before it are dropped."""
        key.run(line=HOP, state=State.RETRYING, keep_ms=keep_ms)

        for line in (0, HOP, 5 * HOP):
            assert key.claim(line=line) == Superseded("older")

    def test_another_job_waits_until_a_retry_had_its_chance(self, key: OneKey) -> None:
        """The key belongs to its waiting retry until the retry's time is over."""
        key.run("a", state=State.RETRYING, keep_ms=KEEP_MS)
        answer = key.claim("b", RETRY)

        assert isinstance(answer, Busy)
        assert KEEP_MS - CLOSE_MS < answer.remaining_ms <= KEEP_MS
        assert (answer.same_job, answer.newer) == (False, False)

    def test_another_job_runs_after_a_retry_missed_its_time(self, key: OneKey) -> None:
        """A retry that did not come in time gives way, and is no crash."""
        key.run("a", state=State.RETRYING, keep_ms=SOON_MS)
        key.elapse(ms=2 * SOON_MS)

        assert key.claim("b") == Granted(key.record.token, 0)

    # done

    def test_an_open_job_that_is_done_is_replayed(self, key: OneKey) -> None:
        """Copies of a job that is done get its outcome and are counted, until it is closed."""
        key.run(data=b"result", keep_ms=KEEP_MS)

        for replays in (1, 2):
            assert key.claim() == Finished(State.DONE, b"result", same_job=True, replays=replays)

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED])
    def test_copies_of_a_closed_job_are_dropped(self, key: OneKey, state: State) -> None:
        """Once everything that hangs on a job was sent, its copies have nothing left to do."""
        key.run(line=HOP, state=state, data=b"outcome")
        key.close()

        for line in (0, HOP, RETRY):
            assert key.claim(line=line) == Superseded("closed")

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED])
    def test_older_copies_of_an_ended_job_are_dropped(self, key: OneKey, state: State) -> None:
        """Only the newest message of an ended job is replayed."""
        key.run(line=RETRY, state=state)

        assert key.claim(line=HOP) == Superseded("older")
        assert key.record.replays == 0

    def test_another_job_gets_the_stored_result(self, key: OneKey) -> None:
        """Within the retention every other job of the key gets the result, uncounted."""
        key.run("a", data=b"result", keep_ms=KEEP_MS)
        before = key.record

        for _ in range(4):
            answer = key.claim("b", max_crashes=1)
            assert answer == Finished(State.DONE, b"result", same_job=False, replays=0)
        assert _same(key.record, before)

    def test_a_closed_job_still_answers_other_jobs(self, key: OneKey) -> None:
        """Closing is about the job's own copies, not about the key's retention."""
        key.run("a", data=b"result", keep_ms=KEEP_MS)
        key.close("a")

        assert key.claim("b") == Finished(State.DONE, b"result", same_job=False)

    def test_another_job_runs_after_the_retention(self, key: OneKey) -> None:
        """After the retention the key is free, and the next run starts with a clean sheet."""
        key.run("a", data=b"result", keep_ms=SOON_MS)
        key.claim("a")
        key.close("a")
        key.elapse(ms=2 * SOON_MS)

        assert key.claim("b") == Granted(key.record.token, 0)
        record = key.record
        assert (record.job, record.outcome) == ("b", None)
        assert (record.closed, record.replays) == (False, 0)

    def test_an_ended_job_never_runs_again(self, key: OneKey) -> None:
        """Without any retention, a copy of an ended job still finds that it has ended."""
        for state in (State.DONE, State.FAILED):
            for line in (0, RETRY):
                fresh = OneKey(key.store, key.elapse)
                fresh.run(state=state, data=b"outcome", keep_ms=0)
                answer = fresh.claim(line=line)
                assert answer == Finished(state, b"outcome", same_job=True, replays=1)

    @pytest.mark.parametrize(
        ("state", "keep_ms", "kept_ms"),
        [
            (State.DONE, 0, HORIZON_MS),
            (State.DONE, HORIZON_MS + KEEP_MS, HORIZON_MS + KEEP_MS),
            (State.FAILED, 0, HORIZON_MS),
            (State.FAILED, HORIZON_MS + KEEP_MS, HORIZON_MS + KEEP_MS),
            (State.RETRYING, KEEP_MS, KEEP_MS + HORIZON_MS),
            (State.IDLE, 0, HORIZON_MS),
        ],
    )
    def test_a_settled_record_is_kept(
        self, key: OneKey, state: State, keep_ms: int, kept_ms: int
    ) -> None:
        """An ended job is known for its retention or the horizon, an open one for both."""
        key.run(state=state, keep_ms=keep_ms)

        assert key.is_kept_for(kept_ms)

    def test_a_record_is_forgotten_in_the_end(self, key: OneKey) -> None:
        """After its time a record is as if it had never been."""
        dead = key.start(lease_ms=SOON_MS, horizon_ms=SOON_MS)
        key.elapse(ms=4 * SOON_MS)

        assert key.store.peek(key.key) is None
        assert key.key not in set(key.store.scan(key.key))
        answer = key.claim("b")
        assert isinstance(answer, Granted)
        assert answer.crashes == 0
        assert answer.token > dead

    # failed

    def test_a_failure_releases_the_key(self, key: OneKey) -> None:
        """Another job may run after a failure that is not to be remembered."""
        key.run("a", state=State.FAILED, data=b"error", keep_ms=0)

        assert key.claim("b") == Granted(key.record.token, 0)

    def test_a_remembered_failure_answers_other_jobs(self, key: OneKey) -> None:
        """Another job gets the same error while the failure is remembered."""
        key.run("a", state=State.FAILED, data=b"error", keep_ms=KEEP_MS)

        assert key.claim("b") == Finished(State.FAILED, b"error", same_job=False)

    # queued

    @pytest.mark.parametrize("job", ["a", "b"])
    def test_a_reservation_stops_no_execution(self, key: OneKey, plant: Plant, job: str) -> None:
        """A key that is only reserved is free for whichever job comes first."""
        key.start("a")
        plant(key.key, State.QUEUED)

        assert key.claim(job) == Granted(key.record.token, 0)

    # released

    @pytest.mark.parametrize("job", ["a", "b"])
    def test_a_released_key_is_free(self, key: OneKey, job: str) -> None:
        """An execution that gave its key back leaves it to anybody, without a crash."""
        key.run("a", state=State.IDLE)

        assert key.claim(job) == Granted(key.record.token, 0)

    # a newer release

    @pytest.mark.parametrize("state", ["N", "RR", "r", "?", "."])
    def test_a_state_of_a_newer_release_is_left_alone(
        self, key: OneKey, plant: Plant, state: str
    ) -> None:
        """A state that only a newer release knows makes everyone wait and is never overwritten."""
        token = key.start("a", lease_ms=SOON_MS, delivery="d")
        plant(key.key, state)
        key.elapse(ms=2 * SOON_MS)

        for job in ("a", "b"):
            assert key.claim(job) == Unreadable()
        assert key.claim("a", delivery="d") == Unreadable()
        assert key.settle(token, "a") == Stale(drop=False)
        assert key.renew(token) is False
        for job in ("a", "b"):
            key.drain(job)
            key.advance(job)
            key.close(job)
            key.end(job)
        record = key.record
        assert (record.state, record.token, record.draining) == (state, token, False)

    # payloads

    def test_another_payload_under_one_key_is_refused(self, key: OneKey) -> None:
        """Jobs of one key must agree in what they were told to agree in."""
        key.start("a", payload="p")

        assert key.claim("b", payload="q") == Reused()
        assert _busy(key.claim("b", payload="p")) == (False, False)

    @pytest.mark.parametrize("state", [State.RETRYING, State.DONE, State.FAILED])
    def test_payloads_are_compared_while_the_key_is_taken(self, key: OneKey, state: State) -> None:
        """A waiting retry and a stored outcome belong to their payload, too."""
        token = key.start("a", payload="p")
        key.settle(token, "a", state=state, keep_ms=KEEP_MS)

        assert key.claim("b", payload="q") == Reused()

    def test_a_missing_payload_is_not_compared(self, key: OneKey) -> None:
        """Jobs that name no payload agree with all."""
        key.start("a", payload="p")
        assert _busy(key.claim("b")) == (False, False)

        other = OneKey(key.store, key.elapse)
        other.start("a")
        assert _busy(other.claim("b", payload="q")) == (False, False)

    def test_payloads_of_one_job_are_never_compared(self, key: OneKey) -> None:
        """A copy of the job is the job, even if a deploy changed what is compared."""
        token = key.start(payload="p")
        assert _busy(key.claim(payload="q")) == (True, False)

        key.settle(token, data=b"result", keep_ms=KEEP_MS)
        assert key.claim(payload="q") == Finished(State.DONE, b"result", same_job=True, replays=1)

    @pytest.mark.parametrize("state", [State.IDLE, State.FAILED, State.DONE, State.RETRYING])
    def test_a_free_key_takes_any_payload(self, key: OneKey, state: State) -> None:
        """A payload binds only while its execution, its retry or its outcome holds the key."""
        token = key.start("a", payload="p")
        key.settle(token, "a", state=state)
        key.start("b", payload="q")

        assert key.record.payload == "q"
        assert key.claim("c", payload="p") == Reused()

    def test_a_grant_without_a_payload_forgets_the_one_before(self, key: OneKey) -> None:
        """What the previous job had to agree in does not bind those that come later."""
        token = key.start("a", payload="p")
        key.settle(token, "a", state=State.IDLE)
        key.start("b")

        assert key.record.payload == ""
        assert _busy(key.claim("c", payload="q")) == (False, False)


def _busy(answer: Answer) -> tuple[bool, bool]:
    """The flags of an answer that must be `Busy`."""
    assert isinstance(answer, Busy)
    assert answer.remaining_ms > 0
    return answer.same_job, answer.newer


class _Crashes(_Fixtures):
    """Deaths, pauses, announced shutdowns and quarantine."""

    def test_a_job_that_kills_its_process_is_quarantined(self, key: OneKey) -> None:
        """After `max_crashes` deaths nobody runs the key any more, whichever job asks."""
        for _ in range(3):
            key.lapse("a")

        for job in ("a", "a", "b", "c"):
            assert key.claim(job) == Poisoned(3)
        assert key.record.state is State.QUARANTINED

    def test_deaths_are_counted_over_all_jobs_of_a_key(self, key: OneKey) -> None:
        """It is the key's work that kills, so the count passes from job to job."""
        for crashes, job in enumerate(("a", "b", "c")):
            assert key.claim(job, lease_ms=SOON_MS) == Granted(key.record.token, crashes)
            key.elapse(ms=2 * SOON_MS)

        assert key.claim("d") == Poisoned(3)

    def test_one_death_can_be_enough(self, key: OneKey) -> None:
        """With `max_crashes` 1 nothing that died runs again."""
        key.lapse(max_crashes=1)

        assert key.claim(max_crashes=1) == Poisoned(1)

    def test_the_limit_is_that_of_the_asker(self, key: OneKey) -> None:
        """A deploy that raises `max_crashes` holds from the next question on."""
        key.lapse()

        assert key.claim(max_crashes=2) == Granted(key.record.token, 1)

    def test_a_quarantined_record_stays(self, key: OneKey) -> None:
        """A quarantine ends when an operator says so, not by itself."""
        key.quarantine()

        for touch in (key.close, key.advance, key.end, key.drain):
            touch("job")
            touch("other")
            assert key.record.state is State.QUARANTINED
            assert key.record.expires_ms is None
        assert key.store.forget(key.key)
        assert key.claim() == Granted(key.record.token, 0)

    def test_a_dead_letter_is_answered_until_it_is_closed(self, key: OneKey) -> None:
        """Copies of a quarantined job are dropped once it was closed; other jobs are told."""
        key.quarantine()
        assert key.claim() == Poisoned(1)
        key.close()

        assert key.claim() == Superseded("closed")
        assert key.claim("other") == Poisoned(1)

    def test_older_copies_of_a_quarantined_job_are_dropped(self, key: OneKey) -> None:
        """Only the newest message of a quarantined job becomes a dead letter."""
        key.lapse(line=RETRY)
        key.claim(line=RETRY, max_crashes=1)

        assert key.claim(line=HOP) == Superseded("older")

    def test_nobody_who_lost_a_quarantined_key_gets_it_back(self, key: OneKey) -> None:
        """An execution that wakes after the quarantine can neither renew, settle nor undo it."""
        first = key.lapse()
        second = key.lapse()
        assert key.claim(max_crashes=2) == Poisoned(2)

        for token in (first, second):
            assert key.renew(token) is False
            assert key.settle(token) == Stale(drop=False)
        assert key.claim() == Poisoned(2)
        assert key.record.suspects == (first, second)

    def test_replays_that_never_close_are_deaths(self, key: OneKey) -> None:
        """A job whose outcome kills whoever passes it on is quarantined like any other."""
        key.run(data=b"result", keep_ms=KEEP_MS)
        for replays in (1, 2):
            assert key.claim(max_crashes=2) == Finished(State.DONE, b"result", True, replays)

        assert key.claim(max_crashes=2) == Poisoned(2)
        assert key.claim(max_crashes=2) == Poisoned(2)
        assert key.claim("other") == Finished(State.DONE, b"result", same_job=False)

    def test_a_repeated_last_replay_is_still_a_replay(self, key: OneKey) -> None:
        """The last replay that is allowed may lose its reply as well."""
        key.run(data=b"result")
        first = key.claim(delivery="d", max_crashes=1)

        assert key.claim(delivery="d", max_crashes=1) == first

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED])
    def test_an_outcome_ends_the_count(self, key: OneKey, state: State) -> None:
        """An execution that ends properly proves that the work does not kill."""
        key.lapse("a")
        key.run("a", state=state)

        assert key.claim("b") == Granted(key.record.token, 0)

    @pytest.mark.parametrize("state", [State.RETRYING, State.IDLE])
    def test_a_retry_or_a_release_does_not_end_the_count(self, key: OneKey, state: State) -> None:
        """Only an outcome clears the deaths before it."""
        key.lapse()
        key.run(state=state)

        assert key.claim(line=RETRY) == Granted(key.record.token, 1)

    # pauses

    def test_a_pause_is_not_a_death(self, key: OneKey) -> None:
        """An overtaken execution that asks for renewal takes its crash back, and is refused."""
        paused = key.lapse()
        key.start()

        for _ in range(2):
            assert key.renew(paused) is False
            assert key.record.suspects == ()

    def test_a_late_outcome_takes_the_crash_back_too(self, key: OneKey) -> None:
        """An overtaken execution that comes to its end was not dead."""
        paused = key.lapse()
        token = key.start()

        for _ in range(2):
            assert key.settle(paused, data=b"late") == Stale(drop=False)
            assert key.record.suspects == ()
        assert key.record.token == token

    def test_only_the_one_that_reports_is_alive_again(self, key: OneKey) -> None:
        """Each suspected execution answers for itself."""
        tokens = [key.lapse(max_crashes=9) for _ in range(4)]
        key.start(max_crashes=9)
        assert key.record.suspects == tuple(tokens)

        key.renew(tokens[1])
        assert key.record.suspects == (tokens[0], tokens[2], tokens[3])
        key.settle(tokens[3])
        assert key.record.suspects == (tokens[0], tokens[2])
        key.renew(tokens[0])
        assert key.record.suspects == (tokens[2],)

    # announced ends

    @pytest.mark.parametrize("job", ["a", "b"])
    def test_an_announced_shutdown_is_not_a_death(self, key: OneKey, job: str) -> None:
        """Taking over from a process that said it would end counts no crash."""
        key.start("a", lease_ms=SOON_MS)
        key.drain("a")
        key.drain("a")
        key.elapse(ms=2 * SOON_MS)

        assert key.claim(job) == Granted(key.record.token, 0)

    def test_an_announcement_holds_for_one_execution(self, key: OneKey) -> None:
        """The execution after an announced shutdown can die like any other."""
        key.start(lease_ms=SOON_MS)
        key.drain()
        key.elapse(ms=2 * SOON_MS)
        key.lapse()

        assert key.claim() == Granted(key.record.token, 1)

    def test_a_settled_execution_is_no_longer_draining(self, key: OneKey) -> None:
        """An announcement ends with the execution that it was about."""
        token = key.start(line=0)
        key.drain()
        assert key.record.draining
        key.settle(token, state=State.RETRYING)

        assert not key.record.draining

    def test_an_announcement_for_who_does_not_run_is_nothing(self, key: OneKey) -> None:
        """Only the running job of a key can be announced to end."""
        key.drain("a")
        assert key.store.peek(key.key) is None

        key.lapse("a")
        key.drain("b")
        assert key.claim("a") == Granted(key.record.token, 1)

        other = OneKey(key.store, key.elapse)
        other.run("a", state=State.IDLE)
        other.drain("a")
        assert not other.record.draining

    def test_many_jobs_are_announced_at_once(self, store: Store, elapse: Elapse) -> None:
        """One call announces all jobs of a process; those that are over do no harm."""
        keys = [OneKey(store, elapse) for _ in range(4)]
        for key in keys[1:]:
            key.start(f"job of {key.key}")

        store.drain([(key.key, f"job of {key.key}") for key in keys])
        store.drain([])

        assert store.peek(keys[0].key) is None
        assert all(key.record.draining for key in keys[1:])

    def test_a_death_in_hand_is_counted(self, key: OneKey) -> None:
        """An execution that gives its key back because its process dies is a crash at once."""
        token = key.start("a")
        for _ in range(2):
            assert key.settle(token, "a", state=State.IDLE, died=True) == Settled()

        assert key.record.suspects == (token,)
        assert key.claim("b") == Granted(key.record.token, 1)

    def test_a_death_in_hand_can_quarantine(self, key: OneKey) -> None:
        """Deaths of every kind are counted together."""
        key.lapse()
        key.run(state=State.IDLE, died=True)

        assert key.claim(max_crashes=2) == Poisoned(2)

    def test_a_death_in_hand_that_was_announced_is_none(self, key: OneKey) -> None:
        """A deploy that announced itself may end its executions without blame."""
        token = key.start()
        key.drain()
        key.settle(token, state=State.IDLE, died=True)

        assert key.claim() == Granted(key.record.token, 0)

    def test_a_renewal_that_crossed_the_death_does_not_undo_it(self, key: OneKey) -> None:
        """The dying process's own renewal, on its way at that moment, does not deny the death."""
        token = key.run(state=State.IDLE, died=True)
        assert key.renew(token) is False

        assert key.claim() == Granted(key.record.token, 1)


class _Jobs(_Fixtures):
    """What is remembered of jobs that no longer hold the key's record."""

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED])
    def test_an_ended_job_is_remembered_after_the_key_moved_on(
        self, key: OneKey, state: State
    ) -> None:
        """A redelivered copy of an ended job is replayed while another job of the key runs."""
        key.run("a", state=state, data=b"outcome")
        key.start("b")

        for replays in (1, 2):
            answer = key.claim("a")
            assert answer == Finished(state, b"outcome", same_job=True, replays=replays)
        assert _busy(key.claim("b")) == (True, False)

    def test_a_replay_beside_another_job_is_no_licence_to_run(self, key: OneKey) -> None:
        """Repeating the question of a replay is never answered with the other job's token."""
        key.run("a", data=b"result")
        key.start("b")
        first = key.claim("a", delivery="d")

        assert first == Finished(State.DONE, b"result", same_job=True, replays=1)
        assert key.claim("a", delivery="d") == first

    def test_a_replay_beside_another_job_does_not_take_its_answer(self, key: OneKey) -> None:
        """Whoever runs gets its token again, though a copy of another job was replayed since."""
        key.run("a", data=b"result")
        running = key.claim("b", delivery="d")
        key.claim("a")

        assert isinstance(running, Granted)
        assert key.claim("b", delivery="d") == running

    def test_replays_are_counted_on_after_the_key_moved_on(self, key: OneKey) -> None:
        """The count of replays follows the job, up to its quarantine."""
        key.run("a", data=b"result")
        first = key.claim("a", delivery="d", max_crashes=2)
        key.start("b")

        assert key.claim("a", delivery="d", max_crashes=2) == first
        assert key.claim("a", max_crashes=2) == Finished(State.DONE, b"result", True, 2)
        assert key.claim("a", max_crashes=2) == Poisoned(2)
        assert _busy(key.claim("b", max_crashes=2)) == (True, False)

    def test_a_job_closed_before_the_key_moved_on_stays_closed(self, key: OneKey) -> None:
        """A closed job's copies are dropped, and its outcome is no longer stored for it."""
        key.run("a", data=b"result")
        key.claim("a", delivery="d")
        key.close("a")
        key.start("b")

        assert key.claim("a") == Superseded("closed")
        assert key.claim("a", delivery="d") == Superseded("closed")
        assert key.record.facts["a"].outcome is None

    def test_a_job_can_be_closed_after_the_key_moved_on(self, key: OneKey) -> None:
        """Closing reaches the job wherever it is remembered, and nobody else."""
        key.run("a", data=b"result")
        token = key.start("b")
        for _ in range(2):
            key.close("a")

        assert key.claim("a") == Superseded("closed")
        assert key.record.token == token
        assert not key.record.closed

    def test_a_closed_job_without_a_record_stays_closed(self, key: OneKey) -> None:
        """A job that was closed although it never held the record does not run."""
        token = key.start("b")
        key.close("a")
        assert key.claim("a") == Superseded("closed")

        key.settle(token, "b", state=State.IDLE)
        assert key.claim("a") == Superseded("closed")

    def test_a_closed_job_that_gave_its_key_back_stays_closed(self, key: OneKey) -> None:
        """Being closed survives that another job takes the key."""
        key.run("a", state=State.IDLE)
        key.close("a")
        key.start("b")

        assert key.claim("a") == Superseded("closed")

    def test_how_far_a_job_got_is_remembered_after_the_key_moved_on(self, key: OneKey) -> None:
        """Older copies of an overtaken job are dropped, the newest may run again."""
        key.lapse("a", RETRY)
        key.start("b")

        assert key.claim("a", HOP) == Superseded("older")
        assert _busy(key.claim("a", RETRY)) == (False, False)

    def test_how_far_a_job_got_comes_back_with_it(self, key: OneKey) -> None:
        """A job that gets the key again still knows its newest message."""
        key.lapse("a", RETRY)
        key.advance("a", RETRY + HOP)
        token = key.start("b")
        key.settle(token, "b", line=RETRY, state=State.IDLE)
        key.start("a", RETRY + HOP)

        assert key.record.line == RETRY + HOP
        assert "a" not in key.record.facts
        assert key.claim("a", RETRY) == Superseded("older")

    def test_a_job_brings_nothing_of_the_one_before(self, key: OneKey) -> None:
        """How far one job got says nothing about another."""
        key.run("a", 3 * RETRY, state=State.IDLE)
        key.start("b", HOP)

        assert (key.record.line, key.record.retries) == (HOP, 0)

    def test_a_job_that_simply_ran_over_needs_no_fact(self, key: OneKey) -> None:
        """A first message that was overtaken leaves nothing behind, since it may run again."""
        key.lapse("a")
        key.start("b")

        assert key.record.facts == {}

    def test_many_jobs_are_kept_apart(self, key: OneKey) -> None:
        """Each job of a key has its own outcome, count and line."""
        key.run("a", data=b"of a")
        key.run("b", RETRY, state=State.FAILED, data=b"of b")
        key.run("c")
        key.close("c")
        key.start("d")

        assert key.claim("b", RETRY) == Finished(State.FAILED, b"of b", True, 1)
        assert key.claim("a") == Finished(State.DONE, b"of a", True, 1)
        assert key.claim("b") == Superseded("older")
        assert key.claim("a") == Finished(State.DONE, b"of a", True, 2)
        assert key.claim("c") == Superseded("closed")

    def test_at_most_64_jobs_are_remembered(self, key: OneKey) -> None:
        """The facts of a key are bounded; the oldest go first, never the running job."""
        token = key.start("owner", RETRY)
        jobs = [f"job-{number:03}" for number in range(MAX_FACTS)]
        for job in jobs:
            key.advance(job)
        assert set(key.record.facts) == set(jobs)

        key.elapse(ms=SOON_MS)
        for number in range(20):
            jobs.append(f"late-{number:03}")
            key.advance(jobs[-1])
            kept = sorted(key.record.facts, key=jobs.index)
            assert kept == jobs[-len(kept) :]
            assert MAX_FACTS - 10 <= len(kept) <= MAX_FACTS
        assert (key.record.token, key.record.line) == (token, RETRY)

    @pytest.mark.parametrize("write", ["close", "end", "hand over"])
    def test_every_way_to_remember_a_job_keeps_the_bound(self, key: OneKey, write: str) -> None:
        """However a job comes to be remembered, at most 64 are."""
        key.start("owner", HOP)
        for number in range(MAX_FACTS):
            key.advance(f"job-{number:03}")
        assert len(key.record.facts) == MAX_FACTS

        if write == "hand over":
            key.settle(key.record.token, "owner", data=b"result")
            key.start("late")
        else:
            getattr(key, write)("late")

        assert len(key.record.facts) <= MAX_FACTS

    def test_what_was_forgotten_takes_its_outcome_along(self, key: OneKey) -> None:
        """An ended job that was pushed out leaves no outcome behind and may run again."""
        key.run("first", data=b"result")
        key.start("owner")
        key.elapse(ms=SOON_MS)
        for number in range(MAX_FACTS):
            key.advance(f"job-{number:03}")

        assert "first" not in key.record.facts
        assert _busy(key.claim("first")) == (False, False)

    def test_facts_past_the_horizon_go_first(self, key: OneKey) -> None:
        """Once the bound is reached, whatever is past the horizon goes with the surplus."""
        key.start("owner")
        for number in range(MAX_FACTS):
            key.advance(f"job-{number:03}")
        key.elapse(ms=2 * SOON_MS)
        key.advance("newest", horizon_ms=SOON_MS)

        assert set(key.record.facts) == {"newest"}

    def test_touching_a_fact_makes_it_young(self, key: OneKey) -> None:
        """A job that was heard of again is not the oldest any more."""
        key.start("owner")
        for number in range(MAX_FACTS):
            key.advance(f"job-{number:03}")
        key.elapse(ms=SOON_MS)
        key.advance("job-000", 2 * HOP)
        key.advance("newest")

        assert "job-000" in key.record.facts
        assert "job-001" not in key.record.facts

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_any_name_will_do(self, store: Store, elapse: Elapse, name: str) -> None:
        """Keys, jobs, deliveries and payloads may contain any character."""
        key = OneKey(store, elapse, key=f"rt1:contract:{uuid4().hex}:{name}")
        granted = key.claim(name, delivery=name, payload=name)
        assert isinstance(granted, Granted)
        assert key.claim(name, delivery=name, payload=name) == granted
        assert key.claim("other", payload=f"{name}{name}") == Reused()
        assert (key.record.job, key.record.delivery, key.record.payload) == (name, name, name)

        assert store.renew([(key.key, granted.token)], lease_ms=1, horizon_ms=HORIZON_MS) == [True]
        store.drain([(key.key, name)])
        key.settle(granted.token, name, data=b"result")
        replay = key.claim(name, delivery=f"{name} again")
        assert replay == Finished(State.DONE, b"result", same_job=True, replays=1)
        key.start("other")
        assert key.claim(name, delivery=f"{name} again") == replay
        key.advance(name, RETRY)
        assert key.claim(name) == Superseded("older")
        assert key.claim(name, RETRY) == Finished(State.DONE, b"result", True, 2)
        key.close(name)
        assert key.claim(name, RETRY) == Superseded("closed")
        assert set(key.record.facts) == {name}

        assert list(store.scan(key.key)) == [key.key]
        assert store.forget(key.key)


class _Leases(_Fixtures):
    """Renewal, and what an execution may do that lost its lease."""

    def test_a_lease_is_lengthened_from_now(self, key: OneKey) -> None:
        """Renewal sets the end of the lease, and the record outlives it by the horizon."""
        token = key.start(lease_ms=SOON_MS, horizon_ms=SOON_MS)
        assert key.renew(token)

        record = key.record
        assert abs(record.until_ms - key.now_ms - LEASE_MS) < CLOSE_MS
        assert key.is_kept_for(LEASE_MS + HORIZON_MS)
        assert (record.state, record.token, record.suspects) == (State.RUNNING, token, ())

    def test_a_lease_can_be_shortened(self, key: OneKey) -> None:
        """Renewal states the length from now; it is not added to what is left."""
        token = key.start()
        assert key.renew(token, lease_ms=SOON_MS)
        key.elapse(ms=2 * SOON_MS)

        assert key.claim() == Granted(key.record.token, 1)

    def test_a_lease_that_nobody_took_can_be_renewed_late(self, key: OneKey) -> None:
        """Only a takeover ends a lease for good, not the clock."""
        token = key.lapse()

        assert key.renew(token)
        assert _busy(key.claim()) == (True, False)

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.RETRYING, State.IDLE])
    def test_a_settled_lease_is_not_renewed(self, key: OneKey, state: State) -> None:
        """A renewal that crosses the settle neither revives nor changes the record."""
        token = key.run(state=state, data=b"outcome", keep_ms=KEEP_MS)
        before = key.record

        assert key.renew(token) is False
        assert _same(key.record, before)

    def test_another_token_is_not_renewed(self, key: OneKey) -> None:
        """A lease is renewed by its own token only."""
        token = key.start(lease_ms=SOON_MS)

        assert key.renew(token - 1) is False
        assert key.renew(token + 1) is False
        key.elapse(ms=2 * SOON_MS)
        assert key.claim() == Granted(key.record.token, 1)

    def test_a_lease_without_a_record_is_not_renewed(self, key: OneKey) -> None:
        """Renewal creates nothing."""
        assert key.renew(1) is False
        assert key.store.peek(key.key) is None

    def test_many_leases_are_renewed_at_once(self, store: Store, elapse: Elapse) -> None:
        """One call renews all leases of a process and answers each in its place."""
        keys = {number: OneKey(store, elapse) for number in (0, 3, 999, 1_000, 2_001)}
        tokens = {number: key.start(lease_ms=SOON_MS) for number, key in keys.items()}
        leases = [(f"{keys[0].key}:missing:{number}", 1) for number in range(2_002)]
        for number, key in keys.items():
            leases[number] = (key.key, tokens[number])

        for _ in range(2):
            answers = store.renew(leases, lease_ms=LEASE_MS, horizon_ms=HORIZON_MS)
            assert [number for number, answer in enumerate(answers) if answer] == list(keys)
            assert len(answers) == len(leases)
        elapse(ms=2 * SOON_MS)
        assert all(_busy(key.claim()) == (True, False) for key in keys.values())

    def test_no_leases_are_renewed_at_no_cost(self, store: Store) -> None:
        """An idle process may ask for nothing."""
        assert store.renew([], lease_ms=LEASE_MS, horizon_ms=HORIZON_MS) == []

    # late outcomes

    @pytest.mark.parametrize("job", ["a", "b"])
    @pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.RETRYING, State.IDLE])
    def test_a_late_outcome_changes_nothing(self, key: OneKey, job: str, state: State) -> None:
        """An execution that was overtaken cannot end, undo or free what came after it."""
        late = key.lapse("a")
        token = key.start(job)
        key.renew(late)
        before = key.record

        answer = key.settle(late, "a", state=state, data=b"late", keep_ms=KEEP_MS, died=True)
        assert answer == Stale(drop=False)
        assert _same(key.record, before)
        assert key.renew(token)

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.RETRYING, State.IDLE])
    def test_a_late_outcome_never_replaces_a_stored_one(self, key: OneKey, state: State) -> None:
        """The outcome that was stored first stays."""
        late = key.lapse()
        key.run(data=b"first", keep_ms=KEEP_MS)
        before = key.record

        answer = key.settle(late, state=state, data=b"late", died=True)
        assert answer == Stale(drop=False)
        assert _same(key.record, before)

    def test_a_late_outcome_of_a_job_remembered_beside_the_record_is_stale(
        self, key: OneKey
    ) -> None:
        """That its job ended so, by another execution, does not make an outcome current."""
        late = key.lapse("a")
        key.run("a", data=b"first")
        key.start("b")
        before = key.record

        assert key.settle(late, "a", data=b"late") == Stale(drop=False)
        assert _same(key.record, before)

    def test_a_late_outcome_may_be_dropped_if_its_job_is_closed(self, key: OneKey) -> None:
        """Nothing is owed any more for a job that is closed, wherever it is remembered."""
        late = key.lapse("a")
        key.run("a")
        key.close("a")
        assert key.settle(late, "a") == Stale(drop=True)

        key.start("b")
        assert key.settle(late, "a") == Stale(drop=True)

    def test_a_late_outcome_may_be_dropped_if_a_newer_message_exists(self, key: OneKey) -> None:
        """A newer message of the job is its safety net, wherever it is remembered."""
        late = key.lapse("a")
        key.start("b")
        assert key.settle(late, "a") == Stale(drop=False)
        key.advance("a", HOP)

        assert key.settle(late, "a") == Stale(drop=True)
        assert key.settle(late, "a", HOP) == Stale(drop=False)
        key.end("b")
        key.start("a", HOP)
        assert key.settle(late, "a") == Stale(drop=True)
        assert key.settle(late, "a", HOP) == Stale(drop=False)

    def test_a_second_word_on_the_same_execution_is_stale(self, key: OneKey) -> None:
        """An execution has one outcome; another one under its token is refused."""
        token = key.run(data=b"result", keep_ms=KEEP_MS)
        before = key.record

        for state in (State.FAILED, State.RETRYING, State.IDLE):
            assert key.settle(token, state=state, data=b"other") == Stale(drop=False)
        assert _same(key.record, before)


class _Outcomes(_Fixtures):
    """How executions end."""

    @pytest.mark.parametrize(
        ("state", "keep_ms"),
        [
            (State.DONE, KEEP_MS),
            (State.FAILED, 0),
            (State.RETRYING, KEEP_MS),
            (State.IDLE, 0),
        ],
    )
    def test_a_repeated_outcome_is_settled_again(
        self, key: OneKey, state: State, keep_ms: int
    ) -> None:
        """An outcome whose reply was lost is confirmed, and written once."""
        token = key.run(state=state, data=b"outcome", keep_ms=keep_ms)
        before = key.record
        assert before.state is state

        assert key.settle(token, state=state, data=b"outcome", keep_ms=keep_ms) == Settled()
        assert _same(key.record, before)

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED])
    def test_a_repeated_outcome_is_settled_again_after_the_key_moved_on(
        self, key: OneKey, state: State
    ) -> None:
        """Whoever got the key meanwhile does not make a recorded outcome stale."""
        token = key.run("a", state=state, data=b"outcome")
        key.start("b")
        before = key.record

        assert key.settle(token, "a", state=state, data=b"outcome") == Settled()
        key.close("a")
        assert key.settle(token, "a", state=state, data=b"outcome") == Settled()
        other = State.FAILED if state is State.DONE else State.DONE
        assert key.settle(token, "a", state=other) == Stale(drop=True)
        assert (key.record.state, key.record.token) == (State.RUNNING, before.token)

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED])
    @pytest.mark.parametrize(
        "data",
        [None, b"", b"\x00", b"\xff\xfe\r\n$5\r\n", bytes(range(256)), b"x" * 2_000_000],
        ids=["not kept", "empty", "nul", "protocol", "all bytes", "2 MB"],
    )
    def test_outcomes_are_any_bytes(self, key: OneKey, state: State, data: bytes | None) -> None:
        """An outcome comes back as it was given, and one that was not kept is told from empty."""
        key.run("a", state=state, data=data, keep_ms=KEEP_MS)

        assert key.claim("b") == Finished(state, data, same_job=False)
        assert key.claim("a") == Finished(state, data, same_job=True, replays=1)
        assert key.record.outcome == data

    @pytest.mark.parametrize("data", [None, b"", bytes(range(256))])
    def test_outcomes_of_jobs_beside_the_record_are_any_bytes(
        self, key: OneKey, data: bytes | None
    ) -> None:
        """An outcome survives unchanged that the key moved on."""
        key.run("a", data=data)
        key.start("b")

        assert key.claim("a") == Finished(State.DONE, data, same_job=True, replays=1)
        assert key.record.facts["a"].outcome == data
        assert key.record.outcome is None

    def test_an_outcome_without_data_leaves_none_of_the_last_one(self, key: OneKey) -> None:
        """A result that is not kept is not confused with an earlier one of the key."""
        key.run("a", data=b"of a")
        key.run("b", data=None, keep_ms=KEEP_MS)

        assert key.claim("b") == Finished(State.DONE, None, same_job=True, replays=1)

    def test_a_lease_that_nobody_took_can_be_settled_late(self, key: OneKey) -> None:
        """Nobody else ran, so the outcome counts, however late."""
        token = key.lapse()

        assert key.settle(token, data=b"result") == Settled()
        assert key.claim() == Finished(State.DONE, b"result", same_job=True, replays=1)

    def test_an_outcome_is_recorded_though_newer_messages_exist(self, key: OneKey) -> None:
        """The token decides, not how far the job got in the broker."""
        token = key.start()
        key.advance(line=2 * RETRY)

        assert key.settle(token, data=b"result") == Settled()
        assert key.claim() == Superseded("older")
        assert key.claim(line=2 * RETRY) == Finished(State.DONE, b"result", True, 1)

    def test_a_retry_settles_how_far_the_job_is(self, key: OneKey) -> None:
        """The retry of an execution is the next message of its job; one further on is kept."""
        token = key.start(line=RETRY + 3 * HOP)
        key.settle(token, line=RETRY + 3 * HOP, state=State.RETRYING)
        assert key.record.line == 2 * RETRY
        assert key.claim(line=2 * RETRY) == Granted(key.record.token, 0)

        other = OneKey(key.store, key.elapse)
        token = other.start()
        other.advance(line=RETRY + HOP)
        other.settle(token, state=State.RETRYING)
        assert other.record.line == RETRY + HOP
        assert other.claim(line=RETRY) == Superseded("older")

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.IDLE])
    def test_only_a_retry_moves_the_line(self, key: OneKey, state: State) -> None:
        """An outcome leaves the newest message the newest."""
        key.run(line=RETRY, state=state)

        assert key.record.line == RETRY

    def test_how_long_an_outcome_answers_is_counted_from_the_settle(self, key: OneKey) -> None:
        """The retention begins when the outcome is recorded."""
        key.run("a", keep_ms=KEEP_MS)

        assert abs(key.record.until_ms - key.now_ms - KEEP_MS) < CLOSE_MS

    # a record that vanished

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED])
    def test_an_outcome_is_written_though_the_record_vanished(
        self, key: OneKey, state: State
    ) -> None:
        """After a loss of the record the outcome is recorded anew, since nobody else ran."""
        token = key.start(line=RETRY)
        key.store.forget(key.key)

        for _ in range(2):
            answer = key.settle(token, line=RETRY, state=state, data=b"outcome", keep_ms=KEEP_MS)
            assert answer == Settled()
        assert key.claim(line=HOP) == Superseded("older")
        assert key.claim("other") == Finished(state, b"outcome", same_job=False)
        assert key.claim(line=RETRY) == Finished(state, b"outcome", same_job=True, replays=1)
        record = key.record
        assert (record.token, record.line, record.retries) == (token, RETRY, 1)
        assert key.is_kept_for(HORIZON_MS)

    def test_a_retry_is_written_though_the_record_vanished(self, key: OneKey) -> None:
        """A waiting retry keeps its key, and the copies before it stay old."""
        token = key.start(line=RETRY)
        key.store.forget(key.key)
        key.settle(token, line=RETRY, state=State.RETRYING, keep_ms=KEEP_MS)

        assert key.record.line == 2 * RETRY
        assert key.claim(line=RETRY) == Superseded("older")
        assert _busy(key.claim("other")) == (False, False)
        assert key.start(line=2 * RETRY) > token

    def test_a_death_is_counted_though_the_record_vanished(self, key: OneKey) -> None:
        """What is known of the execution is written anew, its death included."""
        token = key.start()
        key.store.forget(key.key)
        key.settle(token, state=State.IDLE, died=True)

        assert key.claim() == Granted(key.record.token, 1)

    def test_who_came_after_the_loss_is_current(self, key: OneKey) -> None:
        """If another execution began after the record was lost, the first is stale."""
        first = key.start()
        key.store.forget(key.key)
        key.elapse(ms=1)
        key.start()
        before = key.record

        assert key.settle(first, data=b"late") == Stale(drop=False)
        assert _same(key.record, before)


class _Words(_Fixtures):
    """Words from outside the execution: close, end, advance."""

    def test_closing_without_a_record_is_nothing(self, key: OneKey) -> None:
        """There is nothing to close where nothing is known."""
        key.close()

        assert key.store.peek(key.key) is None

    def test_closing_twice_is_closing_once(self, key: OneKey) -> None:
        """A close whose reply was lost may be repeated."""
        key.run(data=b"result", keep_ms=KEEP_MS)
        key.close()
        before = key.record
        key.close()

        assert _same(key.record, before)
        assert key.claim() == Superseded("closed")

    def test_closing_frees_no_lease(self, key: OneKey) -> None:
        """A close says nothing about who runs."""
        token = key.start("a")
        for job in ("a", "b"):
            key.close(job)

        assert _busy(key.claim("c")) == (False, False)
        assert key.settle(token, "a") == Settled()

    @pytest.mark.parametrize("job", ["a", "b"])
    def test_what_was_closed_is_known_for_the_horizon(self, key: OneKey, job: str) -> None:
        """Closing keeps the record for a horizon at least, and never shortens its time."""
        key.start("a", lease_ms=LEASE_MS, horizon_ms=1)
        key.close(job, horizon_ms=HORIZON_MS)
        assert key.is_kept_for(HORIZON_MS)

        key.close(job, horizon_ms=1)
        assert key.is_kept_for(HORIZON_MS)

    # end

    def test_a_killed_job_is_over(self, key: OneKey) -> None:
        """A hard time limit ends the job: no copy runs, no crash is counted, the key is free."""
        dead = key.lapse("a")
        token = key.start("a")
        key.end("a")

        record = key.record
        assert (record.state, record.closed, record.draining) == (State.FAILED, True, False)
        assert (record.suspects, record.outcome) == ((), None)
        assert record.token > token > dead
        for line in (0, RETRY):
            assert key.claim("a", line) == Superseded("closed")
        assert key.is_kept_for(HORIZON_MS)
        assert key.claim("b") == Granted(key.record.token, 0)

    def test_what_a_killed_execution_still_says_is_dropped(self, key: OneKey) -> None:
        """A child that outlives the main process's word can change nothing."""
        token = key.start()
        key.end()
        before = key.record

        assert key.renew(token) is False
        for state in (State.DONE, State.FAILED):
            assert key.settle(token, state=state, data=b"late") == Stale(drop=True)
        assert _same(key.record, before)

    def test_a_draining_job_can_be_killed(self, key: OneKey) -> None:
        """An announced shutdown may still end in a hard limit."""
        key.start("a")
        key.drain("a")
        key.end("a")
        assert not key.record.draining

        key.start("b", lease_ms=SOON_MS)
        key.elapse(ms=2 * SOON_MS)
        assert key.claim("b") == Granted(key.record.token, 1)

    def test_ending_twice_is_ending_once(self, key: OneKey) -> None:
        """An end whose reply was lost may be repeated."""
        key.start()
        key.end()
        before = key.record
        key.end()
        key.end(killed=False)

        assert _same(key.record, before)

    @pytest.mark.parametrize("killed", [True, False])
    def test_a_job_that_never_started_can_be_over(self, key: OneKey, killed: bool) -> None:
        """The copies of a message that was revoked or expired do not run, other jobs do."""
        key.end("a", killed=killed)

        assert key.claim("a") == Superseded("closed")
        assert key.is_kept_for(HORIZON_MS)
        assert key.claim("b") == Granted(key.record.token, 0)
        assert key.claim("a") == Superseded("closed")

    def test_a_discarded_copy_does_not_end_a_running_job(self, key: OneKey) -> None:
        """A message that was discarded elsewhere leaves a live lease alone."""
        token = key.start()
        before = key.record
        key.end(killed=False)

        assert _same(key.record, before)
        assert key.settle(token) == Settled()

    def test_a_discarded_job_whose_lease_is_over_is_over(self, key: OneKey) -> None:
        """A dead execution's job can be revoked."""
        key.lapse("a")
        key.end("a", killed=False)

        assert key.claim("a") == Superseded("closed")
        assert key.claim("b") == Granted(key.record.token, 0)

    @pytest.mark.parametrize("killed", [True, False])
    @pytest.mark.parametrize("state", [State.RETRYING, State.IDLE])
    def test_a_waiting_job_can_be_over(self, key: OneKey, killed: bool, state: State) -> None:
        """A retry that was revoked before its time frees the key at once."""
        key.run("a", state=state, keep_ms=KEEP_MS)
        key.end("a", killed=killed)

        assert key.claim("a", RETRY) == Superseded("closed")
        assert key.claim("b") == Granted(key.record.token, 0)

    @pytest.mark.parametrize("killed", [True, False])
    @pytest.mark.parametrize("state", [State.DONE, State.FAILED])
    def test_a_job_with_an_outcome_keeps_it(self, key: OneKey, killed: bool, state: State) -> None:
        """A kill that comes after the outcome was recorded changes nothing."""
        key.run(state=state, data=b"outcome", keep_ms=KEEP_MS)
        before = key.record
        key.end(killed=killed)

        assert _same(key.record, before)
        assert key.claim() == Finished(state, b"outcome", same_job=True, replays=1)

    @pytest.mark.parametrize("killed", [True, False])
    def test_ending_a_job_beside_the_record_leaves_the_key_alone(
        self, key: OneKey, killed: bool
    ) -> None:
        """Another job of the key can be over without touching who runs."""
        token = key.start("a", horizon_ms=1)
        key.advance("b", RETRY)
        for _ in range(2):
            key.end("b", killed=killed)

        assert key.claim("b", RETRY) == Superseded("closed")
        assert key.record.facts["b"].line == RETRY
        assert key.is_kept_for(HORIZON_MS)
        assert key.settle(token, "a", data=b"result") == Settled()

    def test_ending_a_job_beside_the_record_keeps_its_outcome(self, key: OneKey) -> None:
        """A job that ended before the key moved on keeps what it has."""
        key.run("a", data=b"result")
        key.start("b")
        key.end("a")

        assert key.claim("a") == Finished(State.DONE, b"result", same_job=True, replays=1)

    def test_a_killed_job_beside_the_record_was_no_outcome_of_its_execution(
        self, key: OneKey
    ) -> None:
        """An overtaken execution whose job was ended for it is stale, and may be dropped."""
        late = key.lapse("a", HOP)
        key.start("b")
        key.end("a")

        assert key.settle(late, "a", HOP, state=State.FAILED) == Stale(drop=True)

    # advance

    def test_copies_before_a_published_message_are_dropped(self, key: OneKey) -> None:
        """Once a successor is in the broker its predecessors are superfluous."""
        key.advance(line=RETRY)

        assert key.claim(line=HOP) == Superseded("older")
        assert key.claim(line=RETRY) == Granted(key.record.token, 0)

    def test_a_published_message_holds_no_key(self, key: OneKey) -> None:
        """Knowing of a message stops no other job."""
        key.advance("a")

        assert key.record.state is State.IDLE
        assert key.is_kept_for(HORIZON_MS)
        assert key.claim("b") == Granted(key.record.token, 0)
        assert key.claim("a") == Superseded("older")

    @pytest.mark.parametrize("job", ["a", "b"])
    def test_the_line_only_rises(self, key: OneKey, job: str) -> None:
        """Notes that arrive late or twice do not make old messages new."""
        key.start("a")
        for line in (HOP, RETRY, HOP, RETRY, 0):
            key.advance(job, line)

        assert key.claim(job, RETRY - 1) == Superseded("older")
        assert isinstance(key.claim(job, RETRY), Busy)

    @pytest.mark.parametrize("job", ["a", "b"])
    def test_advancing_changes_nothing_else(self, key: OneKey, job: str) -> None:
        """A published message says nothing about who runs or how it ends."""
        token = key.start("a", RETRY, payload="p")
        before = key.record
        for _ in range(2):
            key.advance(job, 2 * RETRY)

        after = key.record
        after.line, after.facts = before.line, {}
        assert _same(after, before)
        assert key.settle(token, "a", RETRY) == Settled()

    @pytest.mark.parametrize("job", ["a", "b"])
    def test_what_was_published_is_known_for_the_horizon(self, key: OneKey, job: str) -> None:
        """Advancing keeps the record for a horizon at least, and never shortens its time."""
        key.start("a", lease_ms=LEASE_MS, horizon_ms=1)
        key.advance(job, horizon_ms=HORIZON_MS)
        assert key.is_kept_for(HORIZON_MS)

        key.advance(job, 2 * HOP, horizon_ms=1)
        assert key.is_kept_for(HORIZON_MS)

    def test_lines_beyond_any_real_one_are_exact(self, key: OneKey) -> None:
        """A thousand retries and a million hops are told apart to the last one."""
        line = line_of(1_000, 999_998)
        key.advance(line=line + 1)

        assert key.record.line == line + 1
        assert key.claim(line=line) == Superseded("older")
        key.start(line=line + 1)
        assert key.record.retries == 1_000


class _Operators(_Fixtures):
    """What operators ask, and what is kept of quarantined jobs."""

    def test_nothing_is_found_where_nothing_is(self, key: OneKey) -> None:
        """A key that was never used has no record, and looking makes none."""
        assert key.store.peek(key.key) is None
        assert not key.store.forget(key.key)
        assert list(key.store.scan(key.key)) == []

    def test_a_forgotten_record_is_gone(self, key: OneKey) -> None:
        """After an operator forgets a key its jobs may run again, with higher tokens."""
        token = key.run(data=b"result", keep_ms=KEEP_MS)

        assert key.store.forget(key.key)
        assert not key.store.forget(key.key)
        key.elapse(ms=1)
        assert key.start() > token

    def test_looking_changes_nothing(self, key: OneKey) -> None:
        """What was looked at is a copy."""
        key.run("a", data=b"result")
        key.start("b")
        found = key.record
        before = deepcopy(found)
        found.state, found.token = State.DONE, 1
        found.facts["a"].closed = True
        found.facts["c"] = found.facts["a"]

        assert _same(key.record, before)

    def test_scanning_finds_every_record_once(self, key: OneKey) -> None:
        """All keys with the prefix are found, in any number, and no others."""
        keys = [f"{key.key}:{number}" for number in range(1_200)]
        for name in keys:
            key.store.advance(name, job="job", line=0, horizon_ms=HORIZON_MS)

        assert sorted(key.store.scan(f"{key.key}:")) == sorted(keys)
        assert sorted(key.store.scan(f"{key.key}:119")) == sorted(
            f"{key.key}:{number}" for number in (119, *range(1_190, 1_200))
        )
        assert set(keys) <= set(key.store.scan())

    @pytest.mark.parametrize("odd", ["*", "?", "[ab]", "[^a]", "\\", "{a}", "a-z", "^"])
    def test_a_prefix_is_taken_literally(self, key: OneKey, odd: str) -> None:
        """Characters that are special in patterns are not special here."""
        prefix = f"{key.key}:{odd}"
        names = [f"{prefix}:x", f"{key.key}:a:x", f"{key.key}:b:x", f"{key.key}:other"]
        for name in names:
            key.store.advance(name, job="job", line=0, horizon_ms=HORIZON_MS)

        assert list(key.store.scan(prefix)) == [f"{prefix}:x"]

    def test_dead_letters_are_kept_whole(self, key: OneKey) -> None:
        """Every letter comes back as it was buried, once per job, from its own shelf."""
        shelf, other = f"{key.key}:shelf", f"{key.key}:other"
        letters = {
            f"{name}-{number}": name.encode() * number for number, name in enumerate(ODD_NAMES)
        }
        letters |= {f"job-{number}": bytes(range(256)) for number in range(600)}
        for job, letter in letters.items():
            key.store.bury(shelf, job, letter)
        key.store.bury(other, "job-0", b"of another shelf")
        for _ in range(2):
            key.store.bury(shelf, "job-1", b"again")
        letters["job-1"] = b"again"

        assert sorted(key.store.letters(shelf)) == sorted(letters.items())
        assert list(key.store.letters(other)) == [("job-0", b"of another shelf")]

    def test_an_empty_shelf_has_no_letters(self, key: OneKey) -> None:
        """Looking for dead letters where none were buried finds none."""
        assert list(key.store.letters(f"{key.key}:shelf")) == []


class StoreContract(_Claims, _Crashes, _Jobs, _Leases, _Outcomes, _Words, _Operators):
    """
    What every store promises.

    A subclass provides the fixtures `store`, a new `Store` that may share its
    records with others, and `plant`; if time can be moved, also `elapse`.
    """


def _same(after: Record, before: Record) -> bool:
    """Whether nothing changed; expiry is read from a clock that goes on."""
    if (after.expires_ms is None) != (before.expires_ms is None):
        return False
    drift_ms = abs((after.expires_ms or 0) - (before.expires_ms or 0))
    assert replace(after, expires_ms=None) == replace(before, expires_ms=None)
    return drift_ms < CLOSE_MS
