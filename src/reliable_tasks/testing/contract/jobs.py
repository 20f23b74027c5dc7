"""What is remembered of jobs that no longer hold the record of their key."""

from __future__ import annotations

from uuid import uuid4

import pytest

from reliable_tasks.core.records import (
    MAX_FACTS,
    Finished,
    Granted,
    Poisoned,
    Reused,
    Settled,
    Stale,
    State,
    Superseded,
)
from reliable_tasks.core.store import Store
from reliable_tasks.testing.contract.support import (
    HOP,
    HORIZON_MS,
    ODD_NAMES,
    RETRY,
    SOON_MS,
    Elapse,
    Fixtures,
    OneKey,
    busy,
)

__all__ = ("Jobs",)


class Jobs(Fixtures):
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
        assert busy(key.claim("b")) == (True, False)

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
        key.elapse(ms=2 * SOON_MS)
        assert key.claim("a", max_crashes=2, lease_ms=SOON_MS) == Poisoned(2)
        assert busy(key.claim("b", max_crashes=2)) == (True, False)

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
        key.claim("a", delivery="d")
        for _ in range(2):
            key.close("a")

        assert key.claim("a") == Superseded("closed")
        assert key.claim("a", delivery="d") == Superseded("closed")
        assert key.record.facts["a"].outcome is None
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
        assert busy(key.claim("a", RETRY)) == (False, False)

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
        assert busy(key.claim("first")) == (False, False)

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

    @pytest.mark.parametrize(
        ("tail", "job", "other"),
        [
            (":@job", "job", "other"),
            (":@job", "b", "job"),
            (":@a:@b", "a:@b", "b"),
            (":@a:@b", "b", "a:@b"),
            (":@job", "@job", "ob"),
            (":@", "", "@"),
            (":@=digest", "long", "=digest"),
        ],
    )
    def test_a_key_may_end_in_the_name_of_its_job(
        self, store: Store, elapse: Elapse, tail: str, job: str, other: str
    ) -> None:
        """Who holds a record does not depend on what its key looks like."""
        key = OneKey(store, elapse, key=f"rt1:contract:{uuid4().hex}{tail}")
        late = key.lapse(job, RETRY)
        assert key.claim(job, HOP) == Superseded("older")
        token = key.start(job, RETRY)
        assert key.record.job == job
        assert _answers(key, job, other) == [(True, False), (False, False)]
        key.drain(other)
        before = key.record.draining
        key.drain(job)
        assert (before, key.record.draining) == (False, True)
        assert key.settle(late, job) == Stale(drop=True)
        assert key.settle(late, other) == Stale(drop=False)
        key.settle(token, job, RETRY, data=b"result")

        key.start(other)
        assert key.record.job == other
        assert set(key.record.facts) == {job}
        assert key.claim(job, RETRY) == Finished(State.DONE, b"result", True, 1)
        key.end(other)
        assert key.claim(other) == Superseded("closed")
        assert key.claim(job, RETRY) == Finished(State.DONE, b"result", True, 2)
        key.close(job)
        assert key.claim(job, RETRY) == Superseded("closed")

        for name in (job, other):
            for write in (key.advance, key.end):
                key.store.forget(key.key)
                write(name)
                assert key.record.job == name
            key.store.forget(key.key)
            assert key.settle(1, name) == Settled()
            assert key.record.job == name

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


def _answers(key: OneKey, *jobs: str) -> list[tuple[bool, bool]]:
    return [busy(key.claim(job, RETRY)) for job in jobs]
