"""What producers ask and say: reserve, confirm, unreserve."""

from __future__ import annotations

from typing import Any

import pytest

from reliable_tasks.core.records import (
    Confirmation,
    Duplicate,
    Finished,
    Granted,
    Reservation,
    Reserved,
    Settled,
    State,
    Superseded,
)
from reliable_tasks.testing.contract.support import (
    CLOSE_MS,
    GRACE_MS,
    HORIZON_MS,
    KEEP_MS,
    LEASE_MS,
    RETRY,
    SOON_MS,
    Fixtures,
    OneKey,
    Plant,
    same,
)

__all__ = ("Publishing",)


class Publishing(Fixtures):
    """What producers ask and say: reserve, confirm, unreserve."""

    # reserve

    def test_an_equal_job_is_a_duplicate_until_the_first_runs(self, key: OneKey) -> None:
        """Only one of two jobs is published, and what it does is said."""
        assert key.reserve("a") == Reserved()
        assert key.reserve("b") == Duplicate("a", "queued")

        token = key.start("a")
        assert key.reserve("b") == Duplicate("a", "running")
        key.settle(token, "a", state=State.RETRYING, keep_ms=KEEP_MS)
        assert key.reserve("b") == Duplicate("a", "retrying")
        token = key.start("a", RETRY)
        key.settle(token, "a", RETRY)
        assert key.reserve("b") == Reserved()

    def test_reserving_twice_is_reserving_once(self, key: OneKey) -> None:
        """A question whose reply was lost gets the same answer and changes nothing."""
        for latest in (False, True):
            first = key.reserve("a", latest=latest)
            before = key.record

            assert key.reserve("a", latest=latest) == first
            assert same(key.record, before)
            key.unreserve("a")

    def test_reserving_ahead_is_reserving(self, key: OneKey) -> None:
        """Questions that are on their way together are answered in the order they were asked."""
        begin = key.store.begin_reserve
        first, second = (begin(key.key, Reservation(job, LEASE_MS)) for job in ("a", "b"))

        assert second() == Duplicate("a", "queued")
        assert first() == Reserved()
        assert key.reserve("c") == Duplicate("a", "queued")

    def test_an_answer_that_nobody_hears_is_no_matter(self, key: OneKey) -> None:
        """Who asks again is answered the same."""
        key.store.begin_reserve(key.key, Reservation("a", LEASE_MS))

        assert key.reserve("a") == Reserved()
        assert key.reserve("b") == Duplicate("a", "queued")

    def test_a_reservation_grants_nothing(self, key: OneKey) -> None:
        """The record knows who waits, and nobody runs."""
        key.reserve("a")

        record = key.record
        assert (record.state, record.job, record.token) == (State.IDLE, "a", 0)
        assert record.waiting is not None
        assert record.waiting.job == "a"
        assert key.is_kept_for(LEASE_MS)

    def test_a_reservation_stops_no_execution(self, key: OneKey) -> None:
        """A message of another job runs at once, and the reserved one goes on waiting."""
        key.publish("a")
        token = key.start("b")

        assert key.record.waiting is not None
        assert key.reserve("c") == Duplicate("a", "queued")
        key.settle(token, "b", keep_ms=0)
        assert key.reserve("c") == Duplicate("a", "queued")
        assert key.claim("a") == Granted(key.record.token, 0)
        assert key.record.waiting is None

    def test_a_producer_that_died_blocks_for_its_grace(self, key: OneKey) -> None:
        """A reservation that nobody confirmed blocks until its grace is over, and no longer."""
        first_us = key.reserve("a", grace_ms=GRACE_MS).called_us
        answers = [key.reserve("b")]
        while isinstance(answers[-1], Duplicate):
            key.elapse(ms=GRACE_MS // 10)
            answers.append(key.reserve("b"))

        blocked = [answer.called_us - first_us < GRACE_MS * 1_000 for answer in answers[:-1]]
        assert answers[-1].called_us - first_us > (GRACE_MS - 1) * 1_000
        assert answers[-1] == Reserved()
        assert blocked
        assert all(blocked)

    def test_a_producer_that_died_leaves_no_record(self, key: OneKey) -> None:
        """Nothing remains of a reservation that nobody confirmed."""
        key.reserve("a", grace_ms=SOON_MS)
        key.elapse(ms=2 * SOON_MS)

        assert key.store.peek(key.key) is None

    def test_a_reservation_ends_beside_what_runs(self, key: OneKey) -> None:
        """A record that stays for other reasons forgets its reservation all the same."""
        token = key.start("x")
        key.settle(token, "x")
        key.reserve("a", grace_ms=SOON_MS)
        key.elapse(ms=2 * SOON_MS)

        assert key.reserve("b") == Reserved()
        waiting = key.record.waiting
        assert waiting is not None
        assert waiting.job == "b"

    def test_a_lease_that_is_over_is_free(self, key: OneKey) -> None:
        """After a crash a new call is published at once, and both jobs run, one after the other."""
        key.publish("a")
        dead = key.lapse("a")

        assert key.reserve("b") == Reserved()
        token = key.start("b")
        assert token > dead
        key.settle(token, "b")
        assert key.claim("a") == Granted(key.record.token, 0)

    def test_what_is_done_answers_for_its_retention(self, key: OneKey) -> None:
        """An equal call within the retention is a duplicate of the job that ran."""
        key.run("a", keep_ms=KEEP_MS)
        assert key.reserve("b") == Duplicate("a", "done")

        token = key.start("a2") if key.store.forget(key.key) else 0
        key.settle(token, "a2", state=State.FAILED, keep_ms=KEEP_MS)
        assert key.reserve("b") == Duplicate("a2", "failed")

    def test_who_will_be_answered_makes_nobody_a_duplicate(self, key: OneKey) -> None:
        """What was done after a job was called answers it; a later call has a run of its own."""
        early = key.reserve("a")
        key.confirm("a")
        key.elapse(ms=1)
        key.run("x", data=b"of x", keep_ms=0)
        key.elapse(ms=SOON_MS)

        call = key.reserve("b")
        assert isinstance(call, Reserved)
        key.confirm("b")
        assert key.reserve("c") == Duplicate("b", "queued")
        answer = key.claim("a", turn=-early.called_us)
        assert answer == Finished(State.DONE, b"of x", same_job=False)
        assert key.reserve("c") == Duplicate("b", "queued")
        assert key.claim("b", turn=-call.called_us) == Granted(key.record.token, 0)

    def test_what_is_done_answers_in_the_place_of_who_waits(self, key: OneKey) -> None:
        """Within the retention a call is told of the job that ran, not of one it will answer."""
        key.publish("a")
        key.elapse(ms=1)
        key.run("x", data=b"of x", keep_ms=KEEP_MS)

        assert key.reserve("b") == Duplicate("x", "done")

    @pytest.mark.parametrize("outcome", [{"state": State.FAILED, "data": b"error"}, {"data": None}])
    def test_who_will_run_makes_duplicates(self, key: OneKey, outcome: dict[str, Any]) -> None:
        """After a failure, or a result that was not kept, the job that waits still runs."""
        key.publish("a")
        key.elapse(ms=1)
        key.run("x", keep_ms=0, **outcome)
        key.elapse(ms=SOON_MS)

        assert key.reserve("b") == Duplicate("a", "queued")

    def test_who_is_due_later_makes_duplicates(self, key: OneKey) -> None:
        """A job with an ETA is not answered by what was done before it, and holds its key."""
        key.publish("a", delay_ms=KEEP_MS)
        key.run("x", data=b"of x", keep_ms=0)
        key.elapse(ms=SOON_MS)

        assert key.reserve("b") == Duplicate("a", "queued")

    def test_who_is_asked_about_again_is_answered_the_same(self, key: OneKey) -> None:
        """A question whose reply was lost changes nothing, whatever ran since."""
        key.reserve("a")
        key.elapse(ms=1)
        key.run("x", data=b"of x", keep_ms=0)
        key.elapse(ms=SOON_MS)
        before = key.record

        assert key.reserve("a") == Reserved()
        assert same(key.record, before)

    @pytest.mark.parametrize("begins", [False, True])
    def test_arguments_that_must_agree_and_do_not(self, key: OneKey, begins: bool) -> None:
        """A call that is no equal one is published without a place, and judged when it runs."""
        key.publish("a", payload="p")
        if begins:
            key.start("a", payload="p")
        before = key.record

        assert key.reserve("b", payload="q") == Reserved()
        assert same(key.record, before)
        assert isinstance(key.reserve("c", payload="p"), Duplicate)
        assert isinstance(key.reserve("d"), Duplicate)

    def test_a_job_that_was_given_back_answers_while_it_is_on_its_way(self, key: OneKey) -> None:
        """An execution that puts its message back keeps the key until a worker has it again."""
        key.run("a", state=State.IDLE, keep_ms=KEEP_MS)
        assert key.reserve("b") == Duplicate("a", "queued")
        assert key.is_kept_for(KEEP_MS + HORIZON_MS)
        key.start("b")

    def test_a_quarantined_key_is_never_reserved(self, key: OneKey) -> None:
        """What will be dead-lettered is published, so that it is."""
        key.quarantine("a")
        before = key.record

        assert key.reserve("b", delay_ms=7) == Reserved(0, 7)
        assert key.reserve("c") == Reserved()
        assert same(key.record, before)

    def test_a_key_of_a_newer_release_is_never_reserved(self, key: OneKey, plant: Plant) -> None:
        """A state that is not known says nothing about who may be published."""
        key.start("a")
        plant(key.key, "N")
        before = key.record

        assert key.reserve("b") == Reserved()
        assert same(key.record, before)

    def test_a_copy_reserves_nothing(self, key: OneKey) -> None:
        """A job that runs, waits for its retry, or has ended is published again as it is."""
        token = key.start("a")
        assert key.reserve("a") == Reserved()
        key.settle(token, "a", state=State.RETRYING, keep_ms=KEEP_MS)
        assert key.reserve("a") == Reserved()
        key.settle(key.start("a", RETRY), "a", RETRY)
        assert key.reserve("a") == Reserved()
        key.run("b")

        assert key.reserve("a") == Reserved()
        assert key.record.waiting is None

    def test_a_job_that_was_closed_reserves_nothing(self, key: OneKey) -> None:
        """A message that will be dropped holds no other one up."""
        key.end("a")
        assert key.reserve("a") == Reserved()
        key.start("x")
        key.end("b")
        key.end("x")
        assert key.reserve("b") == Reserved()

        assert key.record.waiting is None

    def test_many_keys_in_one_question(self, key: OneKey) -> None:
        """Each key is answered for itself, in the order of the question."""
        other = OneKey(key.store, key.elapse)
        other.start("x")
        asks = [
            (key.key, Reservation("a", LEASE_MS)),
            (other.key, Reservation("b", LEASE_MS)),
            (key.key, Reservation("c", LEASE_MS)),
        ]

        expected = [Reserved(), Duplicate("x", "running"), Duplicate("a", "queued")]
        assert key.store.reserve(asks) == expected
        assert key.store.reserve([]) == []

    def test_when_the_store_was_asked(self, key: OneKey) -> None:
        """Each answer says the store's time, which orders calls and executions of a key."""
        first = key.reserve("a")
        key.elapse(ms=1)
        second = key.reserve("b")

        assert second.called_us > first.called_us > 0
        assert abs(key.start("a") - second.called_us) < LEASE_MS * 1_000

    # confirm

    def test_a_confirmed_reservation_lasts(self, key: OneKey) -> None:
        """What is in the broker holds its key as long as it may wait there."""
        key.reserve("a", grace_ms=GRACE_MS)
        key.confirm("a", keep_ms=KEEP_MS)
        key.elapse(ms=GRACE_MS + SOON_MS)

        assert key.reserve("b") == Duplicate("a", "queued")
        assert key.is_kept_for(KEEP_MS)

    def test_a_confirmation_shortens_nothing(self, key: OneKey) -> None:
        """The grace lasts, however soon the message may run."""
        key.reserve("a", grace_ms=KEEP_MS)
        key.confirm("a", keep_ms=SOON_MS)
        key.elapse(ms=2 * SOON_MS)

        assert key.reserve("b") == Duplicate("a", "queued")
        assert key.is_kept_for(KEEP_MS)

    def test_a_confirmation_reserves_nothing(self, key: OneKey) -> None:
        """One that comes late, for a job that ran, was revoked or replaced, changes nothing."""
        key.confirm("a")
        assert key.store.peek(key.key) is None

        key.reserve("a")
        key.settle(key.start("a"), "a")
        key.confirm("a")
        assert key.reserve("b") == Reserved()
        before = key.record
        key.confirm("a")
        assert same(key.record, before)

    def test_a_confirmation_after_the_grace_reserves_nothing(self, key: OneKey) -> None:
        """A reservation that is over is not brought back."""
        key.run("x")
        key.reserve("a", grace_ms=SOON_MS)
        key.elapse(ms=2 * SOON_MS)
        key.confirm("a", keep_ms=KEEP_MS)

        assert key.reserve("b") == Reserved()

    # the window

    def test_a_window_outlasts_the_job(self, key: OneKey) -> None:
        """Calls in the window are duplicates whatever became of the first one."""
        key.publish("a", hold_ms=KEEP_MS)
        token = key.start("a")
        assert key.reserve("b") == Duplicate("a", "held")
        key.settle(token, "a", horizon_ms=1)

        assert key.reserve("b") == Duplicate("a", "held")
        assert key.is_kept_for(KEEP_MS)

    def test_a_window_outlasts_the_reservation(self, key: OneKey) -> None:
        """The record is kept for its window, however soon the job is due."""
        key.publish("a", grace_ms=GRACE_MS, keep_ms=SOON_MS, hold_ms=KEEP_MS)
        key.elapse(ms=GRACE_MS + SOON_MS)

        assert key.reserve("b") == Duplicate("a", "held")
        assert key.is_kept_for(KEEP_MS)

    def test_a_window_begins_before_the_publish(self, key: OneKey) -> None:
        """A job that ran before its producer could say that it is published has its window."""
        key.reserve("a", hold_ms=KEEP_MS)
        token = key.start("a")
        key.settle(token, "a")

        assert key.reserve("b") == Duplicate("a", "held")
        key.confirm("a", hold_ms=KEEP_MS)
        held = key.record.held
        assert held is not None
        assert abs(held.until_ms - key.now_ms - KEEP_MS) < CLOSE_MS

    def test_a_producer_that_died_holds_nobody_beyond_its_grace(self, key: OneKey) -> None:
        """The window of a job that may not have been published ends with its reservation."""
        key.run("x")
        key.reserve("a", grace_ms=SOON_MS, hold_ms=KEEP_MS)
        key.elapse(ms=2 * SOON_MS)

        assert key.reserve("b") == Reserved()

    def test_a_confirmation_takes_no_window_away(self, key: OneKey) -> None:
        """A producer slower than its grace leaves the window of the job that came after."""
        key.run("a")
        key.unreserve("a")
        key.publish("b", hold_ms=KEEP_MS)
        before = key.record
        key.confirm("a", hold_ms=2 * KEEP_MS)

        assert same(key.record, before)

    def test_a_confirmation_without_a_window_shortens_none(self, key: OneKey) -> None:
        """A deploy that takes the window away leaves those that are open."""
        key.reserve("a", hold_ms=KEEP_MS)
        before = key.record.held
        key.confirm("a")

        assert key.record.held == before
        key.settle(key.start("a"), "a")
        assert key.reserve("b") == Duplicate("a", "held")

    def test_a_window_ends(self, key: OneKey) -> None:
        """After the window the key is free."""
        key.publish("a", hold_ms=SOON_MS)
        key.settle(key.start("a"), "a")
        key.elapse(ms=2 * SOON_MS)

        assert key.reserve("b") == Reserved()

    def test_a_window_begins_with_the_call(self, key: OneKey) -> None:
        """A confirmation that comes when the job already ran counts from the reservation."""
        key.reserve("a", hold_ms=KEEP_MS)
        token = key.start("a")
        key.confirm("a", hold_ms=KEEP_MS)
        key.confirm("a", hold_ms=KEEP_MS)
        key.settle(token, "a")

        assert key.reserve("b") == Duplicate("a", "held")
        held = key.record.held
        assert held is not None
        assert abs(held.until_ms - key.now_ms - KEEP_MS) < LEASE_MS

    def test_a_window_is_for_jobs_of_the_record(self, key: OneKey) -> None:
        """A job that neither waits nor ran begins no window."""
        key.run("x")
        key.confirm("a", hold_ms=KEEP_MS)

        assert key.record.held is None

    # unreserve

    def test_a_publish_that_failed_leaves_nothing(self, key: OneKey) -> None:
        """The key is free at once, and no record stays behind."""
        key.reserve("a")
        for _ in range(2):
            key.unreserve("a")

        assert key.store.peek(key.key) is None
        assert key.reserve("b") == Reserved()

    def test_what_else_is_known_stays(self, key: OneKey) -> None:
        """A record with a line, a fact, a turn or an execution outlives its reservation."""
        key.reserve("a")
        key.advance("a", 1)
        key.unreserve("a")
        assert key.record.line == 1

        token = key.start("x")
        key.settle(token, "x")
        key.reserve("a")
        key.unreserve("a")
        assert key.record.token == token

    def test_only_ones_own_reservation_is_taken_back(self, key: OneKey) -> None:
        """A failed publish frees nothing of another job."""
        key.publish("a", hold_ms=KEEP_MS)
        before = key.record
        key.unreserve("b")

        assert same(key.record, before)

    def test_a_revoked_job_holds_nobody(self, key: OneKey) -> None:
        """Taking a job back opens its window, too."""
        key.publish("a", hold_ms=KEEP_MS)
        key.unreserve("a")

        assert key.reserve("b") == Reserved()

    # what ends a reservation

    @pytest.mark.parametrize("runs", [True, False])
    def test_a_message_that_was_discarded_frees_its_key(self, key: OneKey, runs: bool) -> None:
        """Revoked or expired in the queue, a job is over: no copy runs, others are published."""
        if runs:
            key.start("x")
        key.publish("a", latest=True, hold_ms=KEEP_MS)
        key.end("a", killed=False)

        record = key.record
        assert (record.waiting, record.held) == (None, None)
        assert key.claim("a") == Superseded("closed")

    def test_a_discarded_copy_keeps_the_window_of_a_job_that_ran(self, key: OneKey) -> None:
        """What ran has used its window up."""
        key.publish("a", hold_ms=KEEP_MS)
        key.settle(key.start("a"), "a")
        key.end("a", killed=False)

        assert key.reserve("b") == Duplicate("a", "held")

    def test_an_outcome_ends_the_reservation_of_its_job(self, key: OneKey) -> None:
        """A job that was reserved again after its lease was over has ended all the same."""
        token = key.lapse("a")
        key.reserve("a")
        assert key.reserve("b") == Duplicate("a", "queued")
        assert key.settle(token, "a") == Settled()

        assert key.record.waiting is None

    def test_the_outcome_of_another_job_ends_a_reservation(self, key: OneKey) -> None:
        """A message that is answered with what is kept will not run, and holds nobody up."""
        key.publish("a")
        key.run("b", keep_ms=KEEP_MS)
        key.claim("a")

        assert key.record.waiting is None

    def test_another_payload_ends_a_reservation(self, key: OneKey) -> None:
        """A message that may not run holds nobody up."""
        key.publish("a")
        key.start("b", payload="p")
        key.claim("a", payload="q")

        assert key.record.waiting is None

    def test_the_record_is_kept_for_who_waits(self, key: OneKey) -> None:
        """Neither a grant, an outcome nor an end of another job shortens a reservation."""
        key.publish("a", keep_ms=KEEP_MS)
        token = key.start("b", lease_ms=LEASE_MS, horizon_ms=1)
        assert key.is_kept_for(KEEP_MS)
        key.settle(token, "b", horizon_ms=1)
        assert key.is_kept_for(KEEP_MS)
        key.start("c", horizon_ms=1)
        key.end("c", horizon_ms=1)
        assert key.is_kept_for(KEEP_MS)

    def test_the_record_is_not_kept_for_who_runs(self, key: OneKey) -> None:
        """A reservation of days is over with the execution, and so is the time for its sake."""
        key.publish("a", keep_ms=9 * HORIZON_MS)
        key.end("a")
        assert key.is_kept_for(HORIZON_MS)

        key.publish("b", keep_ms=9 * HORIZON_MS)
        key.start("b")
        assert key.is_kept_for(LEASE_MS + HORIZON_MS)

    def test_words_for_many_keys(self, key: OneKey) -> None:
        """One confirmation speaks of many keys."""
        other = OneKey(key.store, key.elapse)
        for each in (key, other):
            each.reserve("a")
        words = [(each.key, Confirmation("a", KEEP_MS)) for each in (key, other)]
        key.store.confirm(words)
        key.store.confirm([])

        assert key.is_kept_for(KEEP_MS)
        assert other.is_kept_for(KEEP_MS)
