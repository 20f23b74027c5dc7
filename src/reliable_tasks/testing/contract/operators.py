"""What operators ask, and what is kept of quarantined jobs."""

from __future__ import annotations

from copy import deepcopy

import pytest

from reliable_tasks.core.durations import HOPS_PER_REPLAY
from reliable_tasks.core.keys import (
    flight_key,
    message_key,
    notes_key,
    process_key,
    shelf_name,
)
from reliable_tasks.core.records import Busy, Finished, Poisoned, State, Superseded
from reliable_tasks.core.store import SURPLUS_AT_ONCE
from reliable_tasks.testing.contract.support import (
    HORIZON_MS,
    KEEP_MS,
    ODD_NAMES,
    RETRY,
    SOON_MS,
    Fixtures,
    OneKey,
    Plant,
    same,
)

__all__ = ("Operators",)

REPLAY = RETRY + HOPS_PER_REPLAY  # the line of a message that an operator publishes


class Operators(Fixtures):
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

        assert same(key.record, before)

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

    def test_a_shelf_is_no_record(self, key: OneKey) -> None:
        """A project's dead letters, and what is jotted down, are not found among its records."""
        prefix = key.key.replace(":", "-")
        record = message_key(prefix, "dead-letters", "job")
        key.store.advance(record, job="job", line=0, horizon_ms=HORIZON_MS)
        _bury(key, shelf_name(prefix), "job", b"letter")
        for name in (flight_key, notes_key):
            key.store.jot(name(prefix, "job"), b"line", most=9, keep_ms=KEEP_MS)
        key.store.jot(process_key(prefix, 7), b"line", most=1, keep_ms=KEEP_MS)

        assert list(key.store.scan(f"rt1:{prefix}:")) == [record]

    @pytest.mark.parametrize("odd", ["*", "?", "[ab]", "[^a]", "\\", "{a}", "a-z", "^"])
    def test_a_prefix_is_taken_literally(self, key: OneKey, odd: str) -> None:
        """Characters that are special in patterns are not special here."""
        prefix = f"{key.key}:{odd}"
        names = [f"{prefix}:x", f"{key.key}:a:x", f"{key.key}:b:x", f"{key.key}:other"]
        for name in names:
            key.store.advance(name, job="job", line=0, horizon_ms=HORIZON_MS)

        assert list(key.store.scan(prefix)) == [f"{prefix}:x"]

    # --- dead letters ---------------------------------------------------------------------

    def test_dead_letters_are_kept_whole(self, key: OneKey) -> None:
        """Every letter comes back as it was buried, once per job, from its own shelf."""
        shelf, other = _shelves(key)
        letters = {
            f"{name}-{number}": name.encode() * number for number, name in enumerate(ODD_NAMES)
        }
        letters |= {f"job-{number}": bytes(range(256)) for number in range(600)}
        for job, letter in letters.items():
            assert _bury(key, shelf, job, letter) == []
        _bury(key, other, "job-0", b"of another shelf")
        for _ in range(2):
            _bury(key, shelf, "job-1", b"again")
        letters["job-1"] = b"again"

        assert sorted(key.store.letters(shelf)) == sorted(letters.items())
        assert list(key.store.letters(other)) == [("job-0", b"of another shelf")]
        for job, letter in letters.items():
            assert key.store.letter(shelf, job) == letter
        assert key.store.letter_count(shelf) == len(letters)

    def test_an_empty_shelf_has_no_letters(self, key: OneKey) -> None:
        """Looking for dead letters where none were buried finds none."""
        shelf, _ = _shelves(key)
        assert list(key.store.letters(shelf)) == []
        assert key.store.letter(shelf, "job") is None
        assert key.store.letter_count(shelf) == 0
        assert not key.store.unbury(shelf, "job", at_ms=1)

    def test_what_is_too_much_is_named_and_stays(self, key: OneKey) -> None:
        """The oldest letters beyond the bound are named until they are taken off."""
        shelf, _ = _shelves(key)
        for number in range(4):
            assert _bury(key, shelf, f"job-{number}", at_ms=number, most=4) == []

        for _ in range(2):
            surplus = _bury(key, shelf, "job-4", at_ms=4, most=3)
            assert surplus == [("job-0", 0), ("job-1", 1)]
        assert key.store.letter(shelf, "job-0") == b"letter"
        for job, at_ms in surplus:
            assert key.store.unbury(shelf, job, at_ms=at_ms)
        assert sorted(job for job, _ in key.store.letters(shelf)) == ["job-2", "job-3", "job-4"]
        assert _bury(key, shelf, "job-4", at_ms=4, most=3) == []

    def test_what_is_too_old_is_named(self, key: OneKey) -> None:
        """A letter that is older than the bound is too much, whatever room there is."""
        shelf, _ = _shelves(key)
        _bury(key, shelf, "old", at_ms=100)
        _bury(key, shelf, "young", at_ms=101)

        assert _bury(key, shelf, "new", at_ms=601, oldest_ms=500) == [("old", 100)]

    def test_the_letter_itself_is_never_too_much(self, key: OneKey) -> None:
        """A letter that comes with an old date, from a clock that is late, stays."""
        shelf, _ = _shelves(key)
        _bury(key, shelf, "young", at_ms=900)

        assert _bury(key, shelf, "late", at_ms=100, most=1) == []
        assert _bury(key, shelf, "young", at_ms=900, most=1) == [("late", 100)]

    def test_so_many_are_named_at_once(self, key: OneKey) -> None:
        """A bound that was lowered is reached step by step."""
        shelf, _ = _shelves(key)
        for number in range(SURPLUS_AT_ONCE + 9):
            _bury(key, shelf, f"job-{number:03}", at_ms=number)

        surplus = _bury(key, shelf, "last", at_ms=9_999, most=1)
        assert surplus == [(f"job-{number:03}", number) for number in range(SURPLUS_AT_ONCE)]

    def test_a_letter_is_taken_off_once(self, key: OneKey) -> None:
        """Whoever takes a letter off a second time finds nothing."""
        shelf, _ = _shelves(key)
        _bury(key, shelf, "job", at_ms=5)
        _bury(key, shelf, "other", at_ms=5)

        assert key.store.unbury(shelf, "job", at_ms=5)
        assert not key.store.unbury(shelf, "job", at_ms=5)
        assert list(key.store.letters(shelf)) == [("other", b"letter")]

    def test_a_letter_that_took_anothers_place_stays(self, key: OneKey) -> None:
        """Who has read the earlier letter of a job cannot take the later one off."""
        shelf, _ = _shelves(key)
        _bury(key, shelf, "job", b"earlier", at_ms=5)
        _bury(key, shelf, "job", b"later", at_ms=6)

        assert not key.store.unbury(shelf, "job", at_ms=5)
        assert key.store.letter(shelf, "job") == b"later"

    # --- an operator's word ---------------------------------------------------------------

    def test_a_quarantined_job_runs_again(self, key: OneKey) -> None:
        """Its deaths are forgotten, and it may die as often as any other."""
        key.quarantine("a")
        key.close("a")
        assert _reopen(key, "a")
        assert key.is_kept_for(HORIZON_MS)

        assert key.record.suspects == ()
        key.lapse("a", REPLAY)
        key.lapse("a", REPLAY)
        key.start("a", REPLAY)
        assert len(key.record.suspects) == 2

    @pytest.mark.parametrize("closed", [False, True])
    def test_a_failed_job_runs_again(self, key: OneKey, closed: bool) -> None:
        """A job that failed is as if it had not ended, whatever its retention."""
        key.run("a", state=State.FAILED, data=b"error", keep_ms=KEEP_MS)
        if closed:
            key.close("a")

        assert _reopen(key, "a")
        key.start("a", REPLAY)

    def test_a_job_that_was_ended_runs_again(self, key: OneKey) -> None:
        """A hard time limit and a revoke are undone."""
        key.start("a")
        key.end("a")

        assert _reopen(key, "a")
        key.start("a", REPLAY)

    def test_a_done_job_is_answered_again(self, key: OneKey) -> None:
        """What a job has done is done; only what hangs on its message is sent once more."""
        key.run("a", data=b"result")
        for _ in range(3):
            key.claim("a")
        key.close("a")
        assert _reopen(key, "a")

        answer = key.claim("a", REPLAY)
        assert answer == Finished(State.DONE, b"result", same_job=True, replays=1)

    def test_a_job_that_nobody_remembers_runs_again(self, key: OneKey) -> None:
        """A letter may be older than the record; copies that are older still do not run."""
        assert _reopen(key, "a")
        assert key.is_kept_for(HORIZON_MS)

        assert key.claim("a", RETRY) == Superseded("older")
        key.start("a", REPLAY)

    def test_older_messages_stay_older(self, key: OneKey) -> None:
        """No copy of a message from before the operator's word runs any more."""
        key.quarantine("a")
        _reopen(key, "a")

        assert key.claim("a") == Superseded("older")

    def test_asking_again_changes_nothing(self, key: OneKey) -> None:
        """Whatever became of the job since, the same word is heard once."""
        key.quarantine("a")
        for _ in range(2):
            assert _reopen(key, "a")
            assert key.record.state is State.IDLE
        token = key.start("a", REPLAY)
        before = key.record
        assert _reopen(key, "a")
        assert same(key.record, before)
        key.settle(token, "a", REPLAY, data=b"result")

        assert _reopen(key, "a")
        assert isinstance(key.claim("a", REPLAY), Finished)

    def test_a_later_message_goes_before_an_operators_word(self, key: OneKey) -> None:
        """Who speaks of a letter that was replayed and retried since changes nothing."""
        key.run("a", REPLAY + 1, state=State.FAILED)
        before = key.record

        assert not _reopen(key, "a")
        assert same(key.record, before)

    @pytest.mark.parametrize("state", [State.RUNNING, State.RETRYING])
    def test_a_job_that_goes_on_is_left_alone(self, key: OneKey, state: State) -> None:
        """A job that runs, or waits for its retry, needs no operator."""
        token = key.start("a")
        if state is State.RETRYING:
            key.settle(token, "a", state=state, keep_ms=KEEP_MS)
        before = key.record

        assert not _reopen(key, "a")
        assert same(key.record, before)

    def test_a_job_that_died_runs_again_at_once(self, key: OneKey) -> None:
        """What an execution without a lease still has to say is not heard."""
        dead = key.lapse("a")
        assert _reopen(key, "a")

        assert not key.renew(dead)
        token = key.start("a", REPLAY)
        assert token > dead
        assert key.record.suspects == ()

    @pytest.mark.parametrize("beside", [False, True], ids=["the record's", "beside the record"])
    def test_a_word_from_before_closes_nothing(self, key: OneKey, beside: bool) -> None:
        """Who gave a job up and was slow to say that all was sent does not end its replay."""
        key.quarantine("a")
        job = "b" if beside else "a"
        assert _reopen(key, job)
        key.close(job, line=0)

        token = key.start(job, REPLAY)
        key.settle(token, job, REPLAY)
        key.close(job, line=REPLAY)
        assert key.claim(job, REPLAY) == Superseded("closed")

    def test_another_job_of_a_quarantined_key_runs(self, key: OneKey) -> None:
        """Letting one job run again ends the quarantine of its key."""
        key.quarantine("a")
        key.close("a")
        assert isinstance(key.claim("b"), Poisoned)
        key.close("b")

        assert _reopen(key, "b")
        assert key.is_kept_for(HORIZON_MS)
        key.start("b", REPLAY)
        assert key.claim("a") == Superseded("closed")

    def test_another_job_of_the_key_goes_first(self, key: OneKey) -> None:
        """The word about one job takes nothing from another that runs, or from its outcome."""
        token = key.run("b", state=State.FAILED, data=b"error")
        running = key.start("a")
        assert _reopen(key, "b")
        assert "b" in key.record.facts
        assert key.record.facts["b"].ended == ""
        assert isinstance(key.claim("b", REPLAY), Busy)
        key.settle(running, "a")

        assert key.start("b", REPLAY) > token

    def test_a_done_job_beside_the_record_is_answered_again(self, key: OneKey) -> None:
        """What is remembered of a job that is done stays, but for that all was sent."""
        key.run("b", data=b"result")
        key.start("a")
        assert _reopen(key, "b")

        assert key.claim("b", REPLAY) == Finished(State.DONE, b"result", same_job=True, replays=1)

    def test_what_a_newer_release_wrote_is_not_reopened(self, key: OneKey, plant: Plant) -> None:
        """What this release cannot read it does not change."""
        key.run("a")
        plant(key.key, "N")

        assert not _reopen(key, "a")

    # --- lists ----------------------------------------------------------------------------

    def test_what_was_jotted_down_is_read_in_order(self, key: OneKey) -> None:
        """Lines of any bytes come back as they were written, of each list its own."""
        lines = [name.encode() for name in ODD_NAMES] + [b"", bytes(range(256))]
        for line in lines:
            key.store.jot(f"{key.key}:list", line, most=99, keep_ms=KEEP_MS)
        key.store.jot(f"{key.key}:other", b"line", most=99, keep_ms=KEEP_MS)

        assert key.store.jottings(f"{key.key}:list") == lines
        assert key.store.jottings(f"{key.key}:other") == [b"line"]

    def test_a_list_keeps_its_last_lines(self, key: OneKey) -> None:
        """The oldest lines beyond the bound are gone."""
        for number in range(5):
            key.store.jot(f"{key.key}:list", b"%d" % number, most=3, keep_ms=KEEP_MS)

        assert key.store.jottings(f"{key.key}:list") == [b"2", b"3", b"4"]

    def test_lines_of_many_lists_are_jotted_at_once(self, key: OneKey) -> None:
        """Lines for several lists, and several for one, come to theirs in order and bounded."""
        names = [f"{key.key}:{number % 2}" for number in range(6)]
        lines = [(name, b"%d" % number) for number, name in enumerate(names)]

        key.store.jot_each(lines, most=2, keep_ms=KEEP_MS)
        key.store.jot_each([], most=2, keep_ms=KEEP_MS)

        assert key.store.jottings(names[0]) == [b"2", b"4"]
        assert key.store.jottings(names[1]) == [b"3", b"5"]

    def test_a_list_ends_by_itself(self, key: OneKey) -> None:
        """Some time after its last line a list is gone, and a new one begins empty."""
        name = f"{key.key}:list"
        key.store.jot(name, b"one", most=3, keep_ms=SOON_MS)
        key.elapse(ms=3 * SOON_MS)
        assert key.store.jottings(name) == []

        key.store.jot(name, b"two", most=3, keep_ms=KEEP_MS)
        assert key.store.jottings(name) == [b"two"]

    def test_a_new_line_lengthens_a_list(self, key: OneKey) -> None:
        """A list ends some time after its last line, not its first."""
        name = f"{key.key}:list"
        key.store.jot(name, b"one", most=3, keep_ms=KEEP_MS)
        key.store.jot(name, b"two", most=3, keep_ms=2 * KEEP_MS)
        key.elapse(ms=2 * SOON_MS)

        assert key.store.jottings(name) == [b"one", b"two"]


def _shelves(key: OneKey) -> tuple[str, str]:
    prefix = key.key.replace(":", "-")
    return shelf_name(prefix), shelf_name(f"{prefix}-other")


def _bury(
    key: OneKey,
    shelf: str,
    job: str,
    letter: bytes = b"letter",
    *,
    at_ms: int = 1_700_000_000_123,
    most: int = 10_000,
    oldest_ms: int = KEEP_MS,
) -> list[tuple[str, int]]:
    return key.store.bury(shelf, job, letter, at_ms=at_ms, most=most, oldest_ms=oldest_ms)


def _reopen(key: OneKey, job: str) -> bool:
    return key.store.reopen(key.key, job=job, line=REPLAY, horizon_ms=HORIZON_MS)
