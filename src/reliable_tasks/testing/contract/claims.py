"""Who may run, by the state of the record."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from reliable_tasks.core.records import (
    Answer,
    Busy,
    Finished,
    Granted,
    Reused,
    Stale,
    State,
    Superseded,
    Unreadable,
)
from reliable_tasks.core.store import Store
from reliable_tasks.testing.contract.support import (
    CLOSE_MS,
    HOP,
    HORIZON_MS,
    KEEP_MS,
    LEASE_MS,
    RETRY,
    SOON_MS,
    Fixtures,
    OneKey,
    Plant,
    busy,
    same,
)

__all__ = ("Claims",)


class Claims(Fixtures):
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
        assert same(key.record, before)

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
        """A question that arrives after its own execution was settled has no effect."""
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

        assert busy(key.claim(line=HOP)) == (True, False)

    def test_a_retry_that_overtakes_its_settle_is_known_as_such(self, key: OneKey) -> None:
        """A copy with more retries than the running execution is that execution's own retry."""
        key.start(line=HOP)

        assert busy(key.claim(line=RETRY)) == (True, True)

    def test_the_retry_of_an_execution_is_judged_by_its_own_retries(self, key: OneKey) -> None:
        """That a retry is known to be published does not make it the running execution."""
        key.start(line=HOP)
        key.advance(line=RETRY)

        assert busy(key.claim(line=RETRY)) == (True, True)

    def test_an_older_copy_is_dropped_while_its_job_runs(self, key: OneKey) -> None:
        """A copy is dropped if a newer message of its job exists."""
        key.start(line=RETRY)

        assert key.claim(line=HOP) == Superseded("older")

    def test_another_job_is_told_that_the_key_isbusy(self, key: OneKey) -> None:
        """At most one execution of a key holds a live lease."""
        key.start("a")

        for line in (0, RETRY):
            assert busy(key.claim("b", line)) == (False, False)

    def test_asking_changes_nothing_while_the_lease_is_live(self, key: OneKey) -> None:
        """Whoever is told to wait or to go leaves the record as it was."""
        key.start("a", RETRY, payload="p")
        before = key.record

        key.claim("a", RETRY)
        key.claim("a", HOP)
        key.claim("b")
        key.claim("b", payload="q")

        assert same(key.record, before)

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
        assert same(key.record, before)

    def test_a_renewed_lease_is_not_over(self, key: OneKey) -> None:
        """Renewal moves the end of the lease."""
        token = key.start(lease_ms=SOON_MS)
        key.renew(token)
        key.elapse(ms=2 * SOON_MS)

        assert busy(key.claim()) == (True, False)

    def test_a_takeover_counts_retries_anew(self, key: OneKey) -> None:
        """After a takeover by a retry, the retry of that retry is the newer one."""
        key.lapse()
        key.start(line=RETRY)

        assert busy(key.claim(line=RETRY)) == (True, False)
        assert busy(key.claim(line=2 * RETRY)) == (True, True)

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
        """A waiting retry runs when its message comes, early or late, and is no crash."""
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
        assert same(key.record, before)

    @pytest.mark.parametrize("data", [None, b"", b"result"])
    def test_another_job_is_told_how_long_the_result_stays(
        self, key: OneKey, data: bytes | None
    ) -> None:
        """What remains of the retention is read from the record, not from who asks."""
        key.run("a", data=data, keep_ms=KEEP_MS)

        answer = key.claim("b")
        assert isinstance(answer, Finished)
        assert KEEP_MS - CLOSE_MS < answer.left_ms <= KEEP_MS
        copy = key.claim("a")
        assert isinstance(copy, Finished)
        assert (copy.left_ms, copy.outcome) == (0, data)

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

    # idle

    @pytest.mark.parametrize("job", ["a", "b"])
    def test_a_key_that_nobody_holds_is_free(self, key: OneKey, plant: Plant, job: str) -> None:
        """A released key is free for any job and payload, whatever its time says."""
        key.start("a", payload="p")
        plant(key.key, State.IDLE)

        assert key.claim(job, payload="q") == Granted(key.record.token, 0)

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
        assert busy(key.claim("b", payload="p")) == (False, False)

    @pytest.mark.parametrize("state", [State.RETRYING, State.DONE, State.FAILED])
    def test_payloads_are_compared_while_the_key_is_taken(self, key: OneKey, state: State) -> None:
        """A waiting retry and a stored outcome belong to their payload, too."""
        token = key.start("a", payload="p")
        key.settle(token, "a", state=state, keep_ms=KEEP_MS)

        assert key.claim("b", payload="q") == Reused()

    def test_a_missing_payload_is_not_compared(self, key: OneKey) -> None:
        """Jobs that name no payload agree with all."""
        key.start("a", payload="p")
        assert busy(key.claim("b")) == (False, False)

        other = OneKey(key.store, key.elapse)
        other.start("a")
        assert busy(other.claim("b", payload="q")) == (False, False)

    def test_payloads_of_one_job_are_never_compared(self, key: OneKey) -> None:
        """A copy of the job is the job, even if a deploy changed what is compared."""
        token = key.start(payload="p")
        assert busy(key.claim(payload="q")) == (True, False)

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
        assert busy(key.claim("c", payload="q")) == (False, False)
