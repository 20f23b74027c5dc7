"""Deaths, pauses, announced shutdowns and quarantine."""

from __future__ import annotations

import pytest

from reliable_tasks.core.records import (
    Finished,
    Granted,
    Poisoned,
    Settled,
    Stale,
    State,
    Superseded,
)
from reliable_tasks.core.store import Store
from reliable_tasks.testing.contract.support import (
    HOP,
    KEEP_MS,
    LEASE_MS,
    RETRY,
    SOON_MS,
    Elapse,
    Fixtures,
    OneKey,
    busy,
    same,
)

__all__ = ("Crashes",)


class Crashes(Fixtures):
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

    @pytest.mark.parametrize("is_over", [False, True])
    def test_an_abandoned_execution_is_no_death(self, key: OneKey, is_over: bool) -> None:
        """What a delivery holds that is over by its successor's word is free at once."""
        token = key.start(delivery="12", lease_ms=SOON_MS if is_over else LEASE_MS)
        if is_over:
            key.elapse(ms=2 * SOON_MS)

        answer = key.claim(line=HOP, max_crashes=1, abandoned=("7", "12"))
        assert answer == Granted(key.record.token, 0)
        assert key.record.token > token
        assert key.settle(token) == Stale(drop=True)

    def test_nobody_else_is_abandoned(self, key: OneKey) -> None:
        """Only the very delivery that is named is over, not one with a similar name."""
        key.start(delivery="12")
        for names in ((), ("1", "2", "123", "", "1,12", "12 "), ("successor",)):
            assert busy(key.claim(line=HOP, abandoned=names)) == (True, False)

        key.claim(line=HOP, abandoned=("12",), delivery="successor")
        assert busy(key.claim(line=HOP, abandoned=("12",))) == (True, False)

    def test_an_abandoned_delivery_that_runs_late_is_older(self, key: OneKey) -> None:
        """A question that reaches the store after the successor's own is dropped."""
        key.start(line=HOP, abandoned=("late",))

        assert key.claim(delivery="late") == Superseded("older")

    @pytest.mark.parametrize("other_came", [False, True])
    def test_an_abandoned_replay_is_no_death(self, key: OneKey, other_came: bool) -> None:
        """A copy that was answered and did not hear it is not counted."""
        key.run(data=b"result")
        if other_came:
            key.run("other")
        for number in range(3):
            answer = key.claim(delivery=str(number), max_crashes=1, abandoned=(str(number - 1),))
            assert answer == Finished(State.DONE, b"result", same_job=True, replays=1)
        assert busy(key.claim(max_crashes=1, abandoned=("0",))) == (True, False)

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

        key.elapse(ms=2 * SOON_MS)
        assert key.claim(max_crashes=2, lease_ms=SOON_MS) == Poisoned(2)
        assert key.claim(max_crashes=2, lease_ms=SOON_MS) == Poisoned(2)
        assert key.claim("other") == Finished(State.DONE, b"result", same_job=False)

    @pytest.mark.parametrize("other_came", [False, True])
    def test_copies_that_are_answered_at_once_are_no_deaths(
        self, key: OneKey, other_came: bool
    ) -> None:
        """While an answer may still be passed on, for one lease, further copies wait for it."""
        key.run("a")
        if other_came:
            key.run("b")
        key.claim("a", max_crashes=1)
        assert busy(key.claim("a", max_crashes=1)) == (True, False)
        key.elapse(ms=2 * SOON_MS)
        key.advance("a", HOP)

        assert key.claim("a", HOP, max_crashes=1, lease_ms=SOON_MS) == Poisoned(1)
        key.close("a")
        assert key.claim("a", HOP, max_crashes=1) == Superseded("closed")

    @pytest.mark.parametrize("other_came", [False, True])
    @pytest.mark.parametrize("state", [State.DONE, State.FAILED])
    def test_a_replay_that_lives_is_no_death(
        self, key: OneKey, state: State, other_came: bool
    ) -> None:
        """A job whose outcome cannot be passed on for now is not quarantined for that."""
        key.run("a", state=state, data=b"outcome")
        if other_came:
            key.run("b")
        for number in range(4):
            answer = key.claim("a", delivery=f"replay-{number}", max_crashes=1)
            assert answer == Finished(state, b"outcome", True, 1)
            key.spare(f"replay-{number}", "a")

    @pytest.mark.parametrize("other_came", [False, True])
    def test_a_replay_is_spared_once(self, key: OneKey, other_came: bool) -> None:
        """Saying it again, or of a delivery that is not the last, takes nothing off the count."""
        key.run("a")
        if other_came:
            key.run("b")
        key.claim("a", delivery="dead")
        key.claim("a", delivery="alive")
        for delivery in ("dead", "alive", "alive", "unheard of"):
            key.spare(delivery, "a")

        assert key.claim("a", max_crashes=2) == Finished(State.DONE, None, True, 2)

    def test_only_a_replay_is_spared(self, key: OneKey) -> None:
        """An execution cannot say this of itself, nor a job that nobody knows."""
        key.spare("d")
        assert key.store.peek(key.key) is None
        key.claim(delivery="d")
        before = key.record
        key.spare("d")
        key.spare("d", "stranger")
        assert same(key.record, before)

        key.settle(before.token, data=b"result")
        before = key.record
        key.spare("d")
        assert same(key.record, before)

    @pytest.mark.parametrize("killer", ["a", "b"])
    def test_a_question_that_comes_too_late_is_quarantined(self, key: OneKey, killer: str) -> None:
        """A claim whose lease ended before its reply came is not dropped: it was never run."""
        key.lapse("a", delivery="d")
        assert key.claim(killer, max_crashes=1) == Poisoned(1)

        assert key.claim("a", delivery="d", max_crashes=1) == Poisoned(1)

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

    @pytest.mark.parametrize("report", ["renew", "settle"])
    def test_only_the_one_that_reports_is_alive_again(self, key: OneKey, report: str) -> None:
        """Each suspected execution answers for itself."""
        first, second, third, fourth = (key.lapse(max_crashes=9) for _ in range(4))
        key.start(max_crashes=9)

        def suspects() -> list[int]:
            return list(key.record.suspects)

        left = [first, second, third, fourth]
        assert suspects() == left
        for token in (third, first, fourth, second):
            getattr(key, report)(token)
            left.remove(token)
            assert suspects() == left

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
