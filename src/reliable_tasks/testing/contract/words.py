"""Words from outside the execution: close, end, advance."""

from __future__ import annotations

import pytest

from reliable_tasks.core.lines import line_of
from reliable_tasks.core.records import Busy, Finished, Granted, Settled, Stale, State, Superseded
from reliable_tasks.testing.contract.support import (
    HOP,
    HORIZON_MS,
    KEEP_MS,
    LEASE_MS,
    RETRY,
    SOON_MS,
    Fixtures,
    OneKey,
    busy,
    same,
)

__all__ = ("Words",)


class Words(Fixtures):
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

        assert same(key.record, before)
        assert key.claim() == Superseded("closed")

    def test_closing_takes_back_no_answer(self, key: OneKey) -> None:
        """A replay whose reply was lost is answered the same though its job was closed since."""
        key.run(data=b"result")
        first = key.claim(delivery="d")
        key.close()

        assert first == Finished(State.DONE, b"result", same_job=True, replays=1)
        assert key.claim(delivery="d") == first

    def test_closing_frees_no_lease(self, key: OneKey) -> None:
        """A close says nothing about who runs."""
        token = key.start("a")
        for job in ("a", "b"):
            key.close(job)

        assert busy(key.claim("c")) == (False, False)
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
        assert same(key.record, before)

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

        assert same(key.record, before)

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

        assert same(key.record, before)
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

        assert same(key.record, before)
        assert key.claim() == Finished(state, b"outcome", same_job=True, replays=1)

    @pytest.mark.parametrize("killed", [True, False])
    def test_ending_a_job_beside_the_record_leaves_the_key_alone(
        self, key: OneKey, killed: bool
    ) -> None:
        """Another job of the key can be over without touching who runs."""
        token = key.start("a", horizon_ms=1)
        key.advance("b", RETRY, horizon_ms=1)
        for _ in range(2):
            key.end("b", killed=killed)

        assert key.claim("b", RETRY) == Superseded("closed")
        fact = key.record.facts["b"]
        assert (fact.line, fact.ended, fact.closed) == (RETRY, State.FAILED, True)
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
        for line, newest in ((HOP, HOP), (RETRY, RETRY), (HOP, RETRY), (RETRY, RETRY), (0, RETRY)):
            key.advance(job, line)
            assert key.claim(job, newest - 1) == Superseded("older")
            assert isinstance(key.claim(job, newest), Busy)

    @pytest.mark.parametrize("job", ["a", "b"])
    def test_advancing_changes_nothing_else(self, key: OneKey, job: str) -> None:
        """A published message says nothing about who runs or how it ends."""
        token = key.start("a", RETRY, payload="p")
        before = key.record
        for _ in range(2):
            key.advance(job, 2 * RETRY)

        after = key.record
        after.line, after.facts = before.line, {}
        assert same(after, before)
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
