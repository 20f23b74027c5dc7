"""Renewal, and what an execution may do that lost its lease."""

from __future__ import annotations

import pytest

from reliable_tasks.core.records import (
    Granted,
    Stale,
    State,
)
from reliable_tasks.core.store import Store
from reliable_tasks.testing.contract.support import (
    CLOSE_MS,
    GRACE_MS,
    HOP,
    HORIZON_MS,
    KEEP_MS,
    LEASE_MS,
    SOON_MS,
    Elapse,
    Fixtures,
    OneKey,
    busy,
    same,
)

__all__ = ("Leases",)


class Leases(Fixtures):
    """Renewal, and what an execution may do that lost its lease."""

    def test_a_lease_is_lengthened_from_now(self, key: OneKey) -> None:
        """Renewal sets the end of the lease, and the record outlives it by the horizon."""
        token = key.start(lease_ms=SOON_MS, horizon_ms=GRACE_MS)
        asked_ms = key.now_ms
        assert key.renew(token)

        record = key.record
        assert record.until_ms >= asked_ms + LEASE_MS
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
        assert busy(key.claim()) == (True, False)

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.RETRYING, State.IDLE])
    def test_a_settled_lease_is_not_renewed(self, key: OneKey, state: State) -> None:
        """A renewal that crosses the settle neither revives nor changes the record."""
        token = key.run(state=state, data=b"outcome", keep_ms=KEEP_MS)
        before = key.record

        assert key.renew(token) is False
        assert same(key.record, before)

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
        assert all(busy(key.claim()) == (True, False) for key in keys.values())

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
        assert same(key.record, before)
        assert key.renew(token)

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.RETRYING, State.IDLE])
    def test_a_late_outcome_never_replaces_a_stored_one(self, key: OneKey, state: State) -> None:
        """The outcome that was stored first stays."""
        late = key.lapse()
        key.run(data=b"first", keep_ms=KEEP_MS)
        before = key.record

        answer = key.settle(late, state=state, data=b"late", died=True)
        assert answer == Stale(drop=False)
        assert same(key.record, before)

    def test_a_late_outcome_of_a_job_remembered_beside_the_record_is_stale(
        self, key: OneKey
    ) -> None:
        """That its job ended so, by another execution, does not make an outcome current."""
        late = key.lapse("a")
        key.run("a", data=b"first")
        key.start("b")
        before = key.record

        assert key.settle(late, "a", data=b"late") == Stale(drop=False)
        assert same(key.record, before)

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
        assert same(key.record, before)
