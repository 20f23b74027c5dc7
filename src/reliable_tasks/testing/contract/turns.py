"""Calls that take each other's place: the order of the calls of one key."""

from __future__ import annotations

from typing import Any

import pytest

from reliable_tasks.core.records import (
    Duplicate,
    Early,
    Finished,
    Granted,
    Poisoned,
    Reserved,
    State,
    Superseded,
)
from reliable_tasks.testing.contract.support import (
    CLOSE_MS,
    KEEP_MS,
    RETRY,
    SOON_MS,
    Fixtures,
    OneKey,
    busy,
    same,
)

__all__ = ("Turns",)

REPLACED = Superseded("replaced")


class Turns(Fixtures):
    """Calls that take each other's place: the order of the calls of one key."""

    def test_turns_rise(self, key: OneKey) -> None:
        """A later call has a higher turn, and a call that none can replace has none."""
        first = key.publish("a", latest=True, payload="1")
        second = key.publish("b", latest=True, payload="2")

        assert second > first > 0
        key.start("b", turn=second)
        assert key.publish("c", latest=True, payload="1") > second
        assert OneKey(key.store, key.elapse).publish("a") == 0

    def test_a_later_call_takes_the_place_of_one_that_waits(self, key: OneKey) -> None:
        """Once it is published, the one before it does not run any more."""
        first = key.publish("a", latest=True, payload="1")
        second = key.publish("b", latest=True, payload="2")

        assert key.claim("a", turn=first) == REPLACED
        assert key.claim("b", turn=second) == Granted(key.record.token, 0)
        assert key.claim("a", turn=first) == REPLACED

    def test_a_later_call_that_was_not_published_replaces_nothing(self, key: OneKey) -> None:
        """A producer that dies between its reservation and its publish loses no job."""
        first = key.publish("a", latest=True, payload="1")
        key.reserve("b", latest=True, payload="2")

        assert key.claim("a", turn=first) == Granted(key.record.token, 0)

    def test_a_later_call_that_began_replaces_though_nobody_confirmed_it(self, key: OneKey) -> None:
        """What runs was published, whether or not its producer lived to say so."""
        first = key.publish("a", latest=True, payload="1")
        later = key.reserve("b", latest=True, payload="2")
        assert isinstance(later, Reserved)
        key.settle(key.start("b", turn=later.turn), "b")

        assert key.claim("a", turn=first) == REPLACED

    def test_a_turn_is_known_without_a_reservation(self, key: OneKey) -> None:
        """A message that runs long after its reservation was forgotten replaces all before it."""
        key.settle(key.start("b", turn=2_000), "b")

        assert key.record.latest == 2_000
        assert key.claim("a", turn=1_999) == REPLACED
        assert key.claim("c", turn=2_000) == Granted(key.record.token, 0)

    def test_an_equal_call_is_a_duplicate_of_the_one_that_waits(self, key: OneKey) -> None:
        """The same arguments need not wait twice."""
        key.publish("a", latest=True, payload="1")

        assert key.reserve("b", latest=True, payload="1") == Duplicate("a", "queued")
        assert key.reserve("c") == Duplicate("a", "queued")

    def test_one_runs_and_one_waits(self, key: OneKey) -> None:
        """A change that comes while the job runs is published, once for the same arguments."""
        first = key.publish("a", latest=True, payload="1")
        token = key.start("a", turn=first)
        second = key.publish("b", latest=True, payload="1")
        assert key.reserve("c", latest=True, payload="1") == Duplicate("b", "queued")

        assert busy(key.claim("b", turn=second)) == (False, False)
        key.settle(token, "a")
        assert key.claim("b", turn=second) == Granted(key.record.token, 0)

    def test_a_replaced_job_that_runs_goes_on(self, key: OneKey) -> None:
        """A copy of what runs is a copy, though a later call waits."""
        first = key.publish("a", latest=True)
        key.start("a", turn=first)
        key.publish("b", latest=True)

        assert busy(key.claim("a", turn=first)) == (True, False)

    def test_the_retry_of_a_replaced_job_is_dropped(self, key: OneKey) -> None:
        """The later call runs at once in its place."""
        first = key.publish("a", latest=True)
        token = key.start("a", turn=first)
        second = key.publish("b", latest=True)
        key.settle(token, "a", state=State.RETRYING, keep_ms=KEEP_MS)
        assert busy(key.claim("b", turn=second)) == (False, False)

        for _ in range(2):
            assert key.claim("a", RETRY, delivery="d", turn=first) == REPLACED
        assert key.record.state is State.IDLE
        assert key.claim("b", turn=second) == Granted(key.record.token, 0)

    def test_a_replaced_job_that_died_is_dropped(self, key: OneKey) -> None:
        """The later call takes over from a crash, which is counted once."""
        first = key.publish("a", latest=True)
        key.lapse("a", turn=first)
        second = key.publish("b", latest=True)

        assert key.claim("a", turn=first) == REPLACED
        assert key.claim("b", turn=second) == Granted(key.record.token, 1)

    def test_a_message_without_a_turn_is_never_replaced(self, key: OneKey) -> None:
        """What was published around the reservation runs, as its own call."""
        turn = key.publish("a", latest=True)
        key.settle(key.start("a", turn=turn), "a")

        assert key.claim("b") == Granted(key.record.token, 0)

    def test_a_publish_that_failed_replaces_nothing(self, key: OneKey) -> None:
        """A job whose place was taken for nothing runs."""
        first = key.publish("a", latest=True, payload="1")
        key.reserve("b", latest=True, payload="2")
        key.unreserve("b")

        assert key.claim("a", turn=first) == Granted(key.record.token, 0)

    def test_the_key_is_kept_while_turns_matter(self, key: OneKey) -> None:
        """A job that was taken back after its publish still is the latest."""
        first = key.publish("a", latest=True, payload="1")
        key.publish("b", latest=True, payload="2")
        key.unreserve("b")

        assert key.claim("a", turn=first) == REPLACED

    # putting off

    def test_a_call_runs_its_delay_later(self, key: OneKey) -> None:
        """A copy that comes too early learns how long it has to wait."""
        answer = key.reserve("a", latest=True, delay_ms=KEEP_MS)
        assert isinstance(answer, Reserved)
        assert answer.delay_ms == KEEP_MS
        key.confirm("a", keep_ms=2 * KEEP_MS)

        assert early_ms(key, "a") == pytest.approx(KEEP_MS, abs=CLOSE_MS)
        assert early_ms(key, "a") > 0
        assert key.record.state is State.IDLE

    def test_equal_calls_put_the_job_off(self, key: OneKey) -> None:
        """Each call starts the wait anew, and the reservation lasts as much longer."""
        key.publish("a", latest=True, keep_ms=KEEP_MS, delay_ms=SOON_MS)
        duplicate = key.reserve("b", latest=True, delay_ms=KEEP_MS)

        assert duplicate == Duplicate("a", "queued")
        assert early_ms(key, "a") == pytest.approx(KEEP_MS, abs=CLOSE_MS)
        assert key.is_kept_for(2 * KEEP_MS)

    def test_an_equal_call_without_a_delay_puts_nothing_off(self, key: OneKey) -> None:
        """Being a duplicate lengthens no reservation."""
        key.publish("a", latest=True)
        before = key.record
        key.elapse(ms=2)
        key.reserve("b", latest=True)

        assert same(key.record, before)

    def test_a_repeated_question_is_told_what_is_left(self, key: OneKey) -> None:
        """A producer whose reply was lost publishes for the same time, or at once if it is over."""
        key.reserve("a", latest=True, delay_ms=KEEP_MS)
        again = key.reserve("a", latest=True, delay_ms=KEEP_MS)
        key.reserve("b", latest=True, payload="b", delay_ms=SOON_MS)
        key.elapse(ms=2 * SOON_MS)
        late = key.reserve("b", latest=True, payload="b", delay_ms=SOON_MS)

        assert isinstance(again, Reserved)
        assert again.delay_ms == pytest.approx(KEEP_MS, abs=CLOSE_MS)
        assert isinstance(late, Reserved)
        assert late.delay_ms == 0

    def test_no_call_brings_the_job_forward(self, key: OneKey) -> None:
        """A shorter delay of a later call leaves the longer one as it is."""
        key.publish("a", latest=True, delay_ms=KEEP_MS)
        before = key.record
        key.reserve("b", latest=True, delay_ms=SOON_MS)

        assert same(key.record, before)

    def test_the_limit_counts_from_the_first_call(self, key: OneKey) -> None:
        """However many calls come, the job runs at the latest then."""
        limit_ms = 2 * KEEP_MS
        terms = {"latest": True, "limit_ms": limit_ms}
        key.publish("a", keep_ms=limit_ms, delay_ms=KEEP_MS, **terms)
        key.reserve("b", delay_ms=3 * KEEP_MS, **terms)
        assert early_ms(key, "a") == pytest.approx(limit_ms, abs=CLOSE_MS)

        answer = key.reserve("c", payload="other", delay_ms=3 * KEEP_MS, **terms)
        assert isinstance(answer, Reserved)
        assert answer.delay_ms == pytest.approx(limit_ms, abs=CLOSE_MS)

    def test_a_limit_that_is_over_delays_nothing(self, key: OneKey) -> None:
        """A call after the limit runs at once, in the place of the one that still waits."""
        terms = {"latest": True, "delay_ms": KEEP_MS, "limit_ms": SOON_MS}
        key.publish("a", payload="1", **terms)
        key.elapse(ms=2 * SOON_MS)
        answer = key.reserve("b", payload="2", **terms)

        assert isinstance(answer, Reserved)
        assert answer.delay_ms == 0
        assert key.claim("b", turn=answer.turn) == Granted(key.record.token, 0)

    def test_what_is_due_runs(self, key: OneKey) -> None:
        """After its delay the job is granted, and the next call waits anew."""
        turn = key.publish("a", latest=True, delay_ms=SOON_MS)
        key.elapse(ms=2 * SOON_MS)
        key.settle(key.start("a", turn=turn), "a")

        answer = key.reserve("b", latest=True, delay_ms=KEEP_MS, limit_ms=KEEP_MS)
        assert isinstance(answer, Reserved)
        assert answer.delay_ms == KEEP_MS

    def test_a_delay_ends_with_its_reservation(self, key: OneKey) -> None:
        """A job whose reservation is over is put off by nobody."""
        key.run("x")
        answer = key.reserve("a", latest=True, grace_ms=SOON_MS, delay_ms=KEEP_MS)
        assert isinstance(answer, Reserved)
        key.elapse(ms=2 * SOON_MS)

        assert key.claim("a", turn=answer.turn) == Granted(key.record.token, 0)

    def test_what_must_run_is_never_put_off(self, key: OneKey) -> None:
        """A job that others wait for is passed over by calls that are put off."""
        key.publish("a", latest=True, payload="1")
        turn = key.publish("b", latest=True, payload="1", delay_ms=KEEP_MS)

        assert turn > 0
        assert key.reserve("c", latest=True, payload="1", delay_ms=KEEP_MS) == Duplicate(
            "b", "queued"
        )
        key.settle(key.start("a"), "a")
        assert early_ms(key, "b") == pytest.approx(KEEP_MS, abs=CLOSE_MS)

    def test_what_must_run_takes_the_place_of_a_job_that_is_put_off(self, key: OneKey) -> None:
        """Older arguments do not take effect after newer ones; the next burst begins anew."""
        terms = {"latest": True, "delay_ms": KEEP_MS, "limit_ms": 2 * KEEP_MS}
        first = key.publish("a", payload="1", **terms)
        key.publish("b", latest=True, payload="2")
        assert key.claim("a", turn=first) == REPLACED

        answer = key.reserve("c", payload="2", **terms)
        assert isinstance(answer, Reserved)
        assert answer.delay_ms == KEEP_MS
        assert key.claim("b") == Granted(key.record.token, 0)

    def test_a_message_without_a_turn_is_not_put_off(self, key: OneKey) -> None:
        """Only what later calls may replace waits for them."""
        key.publish("a", latest=True, delay_ms=KEEP_MS)

        assert key.claim("a") == Granted(key.record.token, 0)

    def test_only_the_waiting_job_is_early(self, key: OneKey) -> None:
        """A message of another job is not put off."""
        key.publish("a", latest=True, delay_ms=KEEP_MS)

        assert key.claim("b") == Granted(key.record.token, 0)

    # calls that are answered by what ran since

    def test_a_call_is_answered_by_what_was_done_after_it(self, key: OneKey) -> None:
        """A duplicate that had to be published gets the result of the job that it found."""
        key.publish("a")
        call = key.reserve("b")
        key.elapse(ms=1)
        token = key.start("a")
        key.settle(token, "a", data=b"result", keep_ms=0)
        key.elapse(ms=SOON_MS)

        answer = key.claim("b", turn=-call.called_us)
        assert answer == Finished(State.DONE, b"result", same_job=False)

    def test_a_call_after_the_end_runs(self, key: OneKey) -> None:
        """What was done before the call is no answer to it."""
        key.run("a", data=b"result", keep_ms=0)
        key.elapse(ms=SOON_MS)
        call = key.reserve("b")

        assert key.claim("b", turn=-call.called_us) == Granted(key.record.token, 0)
        assert key.record.latest > 0

    def test_a_call_for_later_is_not_answered_by_what_was_done_before(self, key: OneKey) -> None:
        """The time of a call that is put off by its caller is when it is due."""
        call = key.reserve("a", delay_ms=KEEP_MS)
        key.run("x", data=b"of x", keep_ms=0)
        key.elapse(ms=SOON_MS)
        turn = -(call.called_us + 1_000 * KEEP_MS)

        assert key.claim("a", turn=turn) == Granted(key.record.token, 0)

    @pytest.mark.parametrize("outcome", [{"state": State.FAILED, "data": b"error"}, {"data": None}])
    def test_only_a_result_answers_a_call(self, key: OneKey, outcome: dict[str, Any]) -> None:
        """After a failure, or a result that was not kept, the duplicate runs itself."""
        call = key.reserve("b")
        key.unreserve("b")
        key.elapse(ms=1)
        key.run("a", keep_ms=0, **outcome)
        key.elapse(ms=SOON_MS)

        assert key.claim("b", turn=-call.called_us) == Granted(key.record.token, 0)

    def test_a_call_waits_for_what_runs(self, key: OneKey) -> None:
        """A duplicate that had to be published waits for the job that it found."""
        key.start("a")
        call = key.reserve("b")

        assert busy(key.claim("b", turn=-call.called_us)) == (False, False)

    def test_a_quarantined_key_takes_all(self, key: OneKey) -> None:
        """The latest call is dead-lettered; those that it replaced went before."""
        first = key.publish("a", latest=True, payload="1")
        second = key.publish("b", latest=True, payload="2")
        key.lapse("b", turn=second)
        assert key.claim("b", turn=second, max_crashes=1) == Poisoned(1)

        assert key.claim("a", turn=first) == REPLACED
        assert key.claim("b", turn=second) == Poisoned(1)


def early_ms(key: OneKey, job: str) -> int:
    """The milliseconds that *job* is told to wait, twice the same."""
    waiting = key.record.waiting
    assert waiting is not None
    first, second = (key.claim(job, delivery="early", turn=waiting.turn) for _ in range(2))
    assert isinstance(first, Early)
    assert isinstance(second, Early)
    assert abs(first.remaining_ms - second.remaining_ms) < CLOSE_MS
    return first.remaining_ms
