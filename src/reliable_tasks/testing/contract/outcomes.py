"""How executions end."""

from __future__ import annotations

import pytest

from reliable_tasks.core.records import (
    Finished,
    Granted,
    Settled,
    Stale,
    State,
    Superseded,
)
from reliable_tasks.testing.contract.support import (
    CLOSE_MS,
    HOP,
    HORIZON_MS,
    KEEP_MS,
    RETRY,
    Fixtures,
    OneKey,
    busy,
    same,
)

__all__ = ("Outcomes",)


class Outcomes(Fixtures):
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
        assert same(key.record, before)

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
        assert busy(key.claim("other")) == (False, False)
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
        assert same(key.record, before)
