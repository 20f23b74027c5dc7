"""Who may be published: the last millisecond of everything, and what holds in any order."""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reliable_tasks.core import decisions, reservations
from reliable_tasks.core.decisions import Claim
from reliable_tasks.core.records import (
    Confirmation,
    Duplicate,
    Early,
    Finished,
    Granted,
    Held,
    Record,
    Reservation,
    Reserved,
    State,
    Waiting,
)

NOW_US = 5_000_000_000_123
NOW_MS = NOW_US // 1_000


def asking(job: str = "mine", **terms: Any) -> Reservation:
    return Reservation(job, **({"grace_ms": 100} | terms))


def waiting(job: str = "other", **fields: Any) -> Waiting:
    return Waiting(job, **({"until_ms": NOW_MS + 1, "turn": 7, "first_ms": NOW_MS} | fields))


def claiming(job: str, **terms: Any) -> Claim:
    return Claim(
        delivery="d", job=job, line=0, lease_ms=1_000, horizon_ms=1_000, max_crashes=3, **terms
    )


def record(**fields: Any) -> Record:
    return Record(**({"state": State.IDLE, "job": "other", "expires_ms": NOW_MS + 1} | fields))


@pytest.mark.parametrize(("left_ms", "is_free"), [(1, False), (0, True), (-1, True)])
class TestTheLastMillisecond:
    """What lasts until a time is over when it comes."""

    def test_of_a_reservation(self, left_ms: int, is_free: bool) -> None:
        """A reservation of another job ends with its time."""
        before = record(waiting=waiting(until_ms=NOW_MS + left_ms))

        assert isinstance(reservations.reserve(before, asking(), NOW_US)[1], Reserved) is is_free

    def test_of_a_window(self, left_ms: int, is_free: bool) -> None:
        """A window of another job ends with its time."""
        before = record(held=Held("other", NOW_MS + left_ms))

        assert isinstance(reservations.reserve(before, asking(), NOW_US)[1], Reserved) is is_free

    @pytest.mark.parametrize("state", [State.RUNNING, State.RETRYING, State.IDLE, State.DONE])
    def test_of_a_state(self, left_ms: int, is_free: bool, state: State) -> None:
        """A lease, the wait for a retry and a retention end with their time."""
        before = record(state=state, until_ms=NOW_MS + left_ms)

        assert isinstance(reservations.reserve(before, asking(), NOW_US)[1], Reserved) is is_free

    def test_of_a_delay(self, left_ms: int, is_free: bool) -> None:
        """A job is due when its time comes."""
        before = record(waiting=waiting("mine", until_ms=NOW_MS + 9, due_ms=NOW_MS + left_ms))
        _, answer = decisions.claim(before, claiming("mine", turn=7), NOW_US)

        assert answer == (Granted(NOW_US) if is_free else Early(1))

    def test_of_what_may_be_confirmed(self, left_ms: int, is_free: bool) -> None:
        """A confirmation lengthens what is there, and nothing that is over."""
        before = record(waiting=waiting("mine", until_ms=NOW_MS + left_ms))
        reservations.confirm(before, Confirmation("mine", 50), NOW_US)

        until_ms = NOW_MS + (left_ms if is_free else 50)
        assert before.waiting == waiting("mine", until_ms=until_ms)
        assert before.latest == (0 if is_free else 7)


@pytest.mark.parametrize("before_us", [1, 0, -1, -999, -1_000])
def test_who_will_be_answered_is_who_is_answered(before_us: int) -> None:
    """A job makes no duplicates just if its claim will be answered by what ran before them."""
    called_us = NOW_US - NOW_US % 1_000 - before_us
    call = asking("other", delay_ms=40)
    before, _ = reservations.reserve(record(job="x"), call, called_us)
    before.state, before.outcome = State.DONE, b""
    before.until_ms = NOW_MS + 40
    later = asking()
    later_us = (NOW_MS + 50) * 1_000

    _, answer = reservations.reserve(copy(before), later, later_us)
    turn = -(called_us + 1_000 * call.delay_ms)
    _, claimed = decisions.claim(before, claiming("other", turn=turn), later_us)

    assert isinstance(answer, Reserved) is isinstance(claimed, Finished) is (before_us > 0)


class TestTurns:
    """The order of the calls of one key."""

    @pytest.mark.parametrize(
        "before",
        [record(latest=NOW_US + 9), record(waiting=waiting(turn=NOW_US + 9, payload="other"))],
        ids=["published", "reserved"],
    )
    def test_a_clock_that_was_set_back(self, before: Record) -> None:
        """While the record is there the next turn is higher, whatever the clock says."""
        _, answer = reservations.reserve(before, asking(latest=True), NOW_US)

        assert answer == Reserved(NOW_US + 10)

    def test_a_turn_is_the_time(self) -> None:
        """Turns of a lost record are above those before, because time is."""
        assert reservations.reserve(None, asking(latest=True), NOW_US)[1] == Reserved(NOW_US)

    def test_when_it_was_asked(self) -> None:
        """Every answer tells the store's time."""
        for before in (None, record(waiting=waiting())):
            assert reservations.reserve(before, asking(), NOW_US)[1].called_us == NOW_US


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["call", "reserve", "run", "crash", "revoke", "fail"]),
        st.integers(0, 3),
        st.booleans(),
        st.integers(0, 400),
    ),
    max_size=30,
)


@given(steps=STEPS, modes=st.booleans())
def test_any_order_of_calls_and_runs(steps: list[tuple[str, int, bool, int]], modes: bool) -> None:
    """A duplicate is told of a job that is known, who runs waits no longer, who ended is free."""
    found: Record | None = None
    now_us, number = NOW_US, 0
    for step, payload, answers, elapsed_ms in steps:
        now_us += elapsed_ms * 1_000
        if found is not None and found.expires_ms is not None and found.expires_ms < now_us // 1000:
            found = None
        if step in ("call", "reserve"):
            number += 1
            ask = asking(f"job-{number}", latest=modes, payload=str(payload) if modes else "")
            found, answer = reservations.reserve(found, ask, now_us)
            if isinstance(answer, Duplicate):
                assert answer.job in known_jobs(found)
            elif step == "call":
                reservations.confirm(found, Confirmation(ask.job, 1_000), now_us)
                assert found.waiting is not None
                assert found.waiting.job == ask.job
        elif found is not None and found.waiting is not None:
            found = after(step, found, answers, now_us)


def known_jobs(found: Record) -> set[str]:
    """The jobs that a duplicate may be told of."""
    return {found.job} | {each.job for each in (found.waiting, found.held) if each is not None}


def after(step: str, found: Record, answers: bool, now_us: int) -> Record | None:
    """Let the job that waits run, crash, be revoked or not be published."""
    assert found.waiting is not None
    job, turn = found.waiting.job, found.waiting.turn
    if step == "fail":
        return reservations.unreserve(found, job)
    if step == "revoke":
        return decisions.end(found, job, False, 1_000, now_us)
    found, answer = decisions.claim(found, claiming(job, turn=turn), now_us)
    if isinstance(answer, Granted):
        assert found.waiting is None
        assert found.latest >= turn
        if step == "run" and answers:
            outcome = decisions.Outcome(State.DONE, b"")
            found, _ = decisions.settle(
                found, token=answer.token, job=job, line=0, outcome=outcome,
                horizon_ms=1_000, now_us=now_us,
            )  # fmt: skip
            assert isinstance(reservations.reserve(found, asking("next"), now_us)[1], Reserved)
            found = reservations.unreserve(found, "next")
    return found
