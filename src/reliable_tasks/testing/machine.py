"""
A store and the memory store side by side, asked the same by Hypothesis.

The memory store runs the protocol's table itself (`core.decisions`), so whatever
a store answers or keeps differently is a fault::

    def test_my_store_agrees_with_the_table():
        StoreMachine.drive(MyStore(...))

Nothing depends on how fast the store is: a duration is either over at once,
and then the machine waits until it is, or does not end while it runs. Tokens
are compared by who got them and by their order, times by how far they are from
the store's own present. So are turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reliable_tasks.core.durations import HOPS_PER_REPLAY
from reliable_tasks.core.lines import line_of
from reliable_tasks.core.records import (
    MAX_FACTS,
    Busy,
    Confirmation,
    Early,
    Finished,
    Granted,
    Outcome,
    Record,
    Reservation,
    Reserved,
    State,
    Waiting,
)
from reliable_tasks.core.store import Store
from reliable_tasks.stores.memory import MemoryStore

__all__ = ("StoreMachine",)

OVER_AT_ONCE_MS = 1
WAIT_S = 0.004
HOUR_MS = 3_600_000
CLOSE_MS = HOUR_MS // 4
NEARLY_FULL = MAX_FACTS - 4

NAMES = ("one", "two:@b:@a")  # without and with the job in the key's name
KEYS = st.sampled_from(NAMES)
JOBS = st.sampled_from(["a", "b", "b:@a"])
LINES = st.builds(line_of, st.integers(0, 2), st.sampled_from([0, 1, HOPS_PER_REPLAY]))
LEASES = st.sampled_from([OVER_AT_ONCE_MS, HOUR_MS])
HORIZONS = st.sampled_from([*(10 * HOUR_MS,) * 7, OVER_AT_ONCE_MS])
RETENTIONS = st.sampled_from([0, OVER_AT_ONCE_MS, 100 * HOUR_MS])
LIMITS = st.integers(1, 4)
PAYLOADS = st.sampled_from(["", "p", "q"])
OUTCOMES = st.one_of(
    st.builds(Outcome, st.just(State.IDLE), keep_ms=RETENTIONS, died=st.booleans()),
    st.builds(Outcome, st.just(State.RETRYING), keep_ms=RETENTIONS),
    st.builds(
        Outcome,
        st.sampled_from([State.DONE, State.FAILED]),
        data=st.none() | st.binary(max_size=8),
        keep_ms=RETENTIONS,
    ),
)
RESERVATIONS = st.builds(
    Reservation,
    JOBS,
    grace_ms=LEASES,
    latest=st.booleans(),
    payload=PAYLOADS,
    delay_ms=st.sampled_from([0, 0, OVER_AT_ONCE_MS, HOUR_MS]),
    limit_ms=st.sampled_from([0, OVER_AT_ONCE_MS, HOUR_MS]),
    hold_ms=st.sampled_from([0, 0, OVER_AT_ONCE_MS, 100 * HOUR_MS]),
)
CONFIRMATIONS = st.builds(
    Confirmation,
    JOBS,
    keep_ms=st.sampled_from([OVER_AT_ONCE_MS, HOUR_MS, 100 * HOUR_MS]),
    hold_ms=st.sampled_from([0, 0, OVER_AT_ONCE_MS, 100 * HOUR_MS]),
)
ORDERS = ("forget", "scan", "scan", "newer release")
NAMED = st.sampled_from([(), (), (0,), (0, 1), (2, 1)])
RECENT = st.sampled_from([0, 0, 0, 1, 2, 3])
TURNS = st.sampled_from([None, None, None, 0, 1, 2, -1, -2])  # none, of the last, or a call's time


class StoreMachine(RuleBasedStateMachine):
    """
    Asks a store and its model the same questions and compares every answer and record.

    Args:
        store: The store under test. Its records need not be empty: each run of the
            machine uses keys of its own.
        plant: Overwrites the state of the record of a key with any letter; without it
            states of newer releases are left out.
    """

    def __init__(self, store: Store, plant: Callable[[str, str], None] | None = None) -> None:
        super().__init__()
        self.store, self.plant = store, plant
        self.model = MemoryStore()
        self.prefix = f"rt1:machine:{uuid4().hex}:"
        self.deliveries: list[str] = []
        # What the model and the store gave out, in this order; nobody was ever given the first.
        self.tokens = {name: [(7, 7)] for name in NAMES}
        self.turns = {name: [(0, 0)] for name in NAMES}
        self.calls = [(0, 0)]
        self.crowd = 0

    @classmethod
    def drive(
        cls,
        store: Store,
        plant: Callable[[str, str], None] | None = None,
        how: settings | None = None,
    ) -> None:
        """
        Run the machine as a test.

        Args:
            store: See the class.
            plant: See the class.
            how: Hypothesis' settings; those of the profile if left out, with a third of
                its examples, since each takes many steps.

        Raises:
            AssertionError: The store and the table differ; Hypothesis shows the shortest way there.
        """
        if how is None:
            profile = settings()
            how = settings(profile, max_examples=max(1, profile.max_examples // 3), deadline=None)

        class Machine(cls):  # type: ignore[valid-type, misc]
            def __init__(self) -> None:
                super().__init__(store, plant)

        run_state_machine_as_test(Machine, settings=how)

    # asking

    @rule(
        name=KEYS, job=JOBS, line=LINES, lease_ms=LEASES, horizon_ms=HORIZONS, limit=LIMITS,
        payload=PAYLOADS, names=NAMED, turn=TURNS,
    )  # fmt: skip
    def claim(self, name: str, job: str, *, names: Sequence[int] = (), **terms: Any) -> None:
        """A new delivery asks, may name earlier ones as over, and may have a turn."""
        terms["abandoned"] = [self.deliveries[-1 - at] for at in names if at < len(self.deliveries)]
        self.deliveries.append(f"delivery-{len(self.deliveries)}")
        self._claim(name, self.deliveries[-1], job, **terms)

    @rule(name=KEYS, job=JOBS, lease_ms=LEASES)
    def claim_as_most_do(self, name: str, job: str, lease_ms: int) -> None:
        """The first message of a job asks, with the defaults."""
        self.claim(
            name,
            job,
            line=0,
            lease_ms=lease_ms,
            horizon_ms=10 * HOUR_MS,
            limit=3,
            payload="",
        )

    @rule(name=KEYS, job=JOBS, line=LINES, outcome=OUTCOMES)
    def run(self, name: str, job: str, line: int, outcome: Outcome) -> None:
        """A job runs from its claim to its end, if it may."""
        self.claim(
            name,
            job,
            line=line,
            lease_ms=HOUR_MS,
            horizon_ms=10 * HOUR_MS,
            limit=3,
            payload="",
        )
        if self._held(name):
            self.settle_what_runs(name, line, outcome, 10 * HOUR_MS)

    @precondition(lambda self: self.deliveries)
    @rule(
        recent=RECENT, name=KEYS, job=JOBS, line=LINES, lease_ms=LEASES, horizon_ms=HORIZONS,
        limit=LIMITS, payload=PAYLOADS, turn=TURNS,
    )  # fmt: skip
    def claim_again(self, recent: int, name: str, job: str, **terms: Any) -> None:
        """A delivery that asked before asks again."""
        delivery = self.deliveries[-1 - recent % len(self.deliveries)]
        self._claim(name, delivery, job, **terms)

    def _claim(
        self,
        name: str,
        delivery: str,
        job: str,
        *,
        line: int,
        lease_ms: int,
        horizon_ms: int,
        limit: int,
        payload: str,
        abandoned: Sequence[str] = (),
        turn: int | None = None,
    ) -> None:
        turns = self._turns(name, turn)

        def ask(store: Store) -> Any:
            return store.claim(
                self._key(name),
                delivery=delivery,
                job=job,
                line=line,
                lease_ms=lease_ms,
                horizon_ms=horizon_ms,
                max_crashes=limit,
                payload=payload,
                abandoned=abandoned,
                turn=turns[store is self.store],
            )

        self._settle_down(lease_ms)  # a replay of just now counts for one lease
        expected, got = self._ask(name, ask, lease_ms, horizon_ms)
        if isinstance(expected, Granted) and isinstance(got, Granted):
            _learn(self.tokens[name], expected.token, got.token)
            got = replace(got, token=expected.token)
        if isinstance(expected, Busy | Early) and isinstance(got, Busy | Early):
            assert abs(expected.remaining_ms - got.remaining_ms) < CLOSE_MS
            got = replace(got, remaining_ms=expected.remaining_ms)
        if isinstance(expected, Finished) and isinstance(got, Finished):
            assert abs(expected.left_ms - got.left_ms) < CLOSE_MS
            time.sleep(WAIT_S)  # until when it is no longer now, on both clocks
        assert got == expected
        self._compare(name)

    # holding

    @rule(names=st.lists(KEYS, max_size=4), recent=RECENT, lease_ms=LEASES, horizon_ms=HORIZONS)
    def renew(self, names: list[str], recent: int, lease_ms: int, horizon_ms: int) -> None:
        """A process renews its leases, old ones among them."""
        chosen = [(self._key(name), self._token(name, recent)) for name in names]
        self._settle_down(lease_ms, horizon_ms)
        answers = [
            store.renew(
                [(key, pair[side]) for key, pair in chosen],
                lease_ms=lease_ms,
                horizon_ms=horizon_ms,
            )
            for side, store in enumerate((self.model, self.store))
        ]
        self._settle_down(lease_ms, horizon_ms)
        assert answers[1] == answers[0]
        for name in set(names):
            self._compare(name)

    @rule(
        name=KEYS, recent=RECENT, job=JOBS, line=LINES, outcome=OUTCOMES, horizon_ms=HORIZONS,
    )  # fmt: skip
    def settle(
        self, name: str, recent: int, job: str, line: int, outcome: Outcome, horizon_ms: int
    ) -> None:
        """An execution of any time reports how it ended."""
        pair = self._token(name, recent)

        def ask(store: Store) -> Any:
            return store.settle(
                self._key(name),
                token=pair[store is self.store],
                job=job,
                line=line,
                outcome=outcome,
                horizon_ms=horizon_ms,
            )

        expected, got = self._ask(name, ask, outcome.keep_ms, horizon_ms)
        assert got == expected
        self._compare(name)

    @precondition(lambda self: any(self._held(name) for name in NAMES))
    @rule(first=KEYS, line=LINES, outcome=OUTCOMES, horizon_ms=HORIZONS)
    def settle_what_runs(self, first: str, line: int, outcome: Outcome, horizon_ms: int) -> None:
        """The current execution reports how it ended."""
        name = next(each for each in (first, *NAMES) if self._held(each))
        held = self._held(name)
        assert held is not None
        at = next(
            at for at, pair in enumerate(reversed(self.tokens[name])) if pair[0] == held.token
        )
        self.settle(name, at, held.job, line, outcome, horizon_ms)

    @rule(name=KEYS, job=JOBS, horizon_ms=HORIZONS, line=st.none() | LINES)
    def close(self, name: str, job: str, horizon_ms: int, line: int | None = None) -> None:
        """What hangs on a job was sent."""
        self._tell(
            name,
            lambda store: store.close(self._key(name), job=job, horizon_ms=horizon_ms, line=line),
            horizon_ms,
        )

    @precondition(lambda self: self.deliveries)
    @rule(recent=RECENT, name=KEYS, job=JOBS)
    def spare(self, recent: int, name: str, job: str) -> None:
        """A replay could not be sent, and its process lives."""
        delivery = self.deliveries[-1 - recent % len(self.deliveries)]
        self._tell(name, lambda store: store.spare(self._key(name), job=job, delivery=delivery), 0)

    @rule(name=KEYS, job=JOBS, killed=st.booleans(), horizon_ms=HORIZONS)
    def end(self, name: str, job: str, killed: bool, horizon_ms: int) -> None:
        """The main process says that a job is over."""
        self._tell(
            name,
            lambda store: store.end(self._key(name), job=job, killed=killed, horizon_ms=horizon_ms),
            horizon_ms,
        )

    @rule(jobs=st.lists(st.tuples(KEYS, JOBS), max_size=3))
    def drain(self, jobs: list[tuple[str, str]]) -> None:
        """A process announces that it ends."""
        for store in (self.model, self.store):
            store.drain([(self._key(name), job) for name, job in jobs])
        for name, _ in jobs:
            self._compare(name)

    @rule(name=KEYS, job=JOBS, line=LINES, horizon_ms=HORIZONS)
    def advance(self, name: str, job: str, line: int, horizon_ms: int) -> None:
        """A message was published."""
        self._tell(
            name,
            lambda store: store.advance(self._key(name), job=job, line=line, horizon_ms=horizon_ms),
            horizon_ms,
        )

    @rule(name=KEYS, size=st.integers(1, MAX_FACTS + 6))
    def remember_a_crowd(self, name: str, size: int) -> None:
        """Many jobs of one key are heard of, in an order that both stores can tell."""
        time.sleep(WAIT_S)
        for _ in range(size):
            self.crowd += 1
            for store in (self.model, self.store):
                store.advance(
                    self._key(name),
                    job=f"x{self.crowd:06}",
                    line=1,
                    horizon_ms=10 * HOUR_MS,
                )
        time.sleep(WAIT_S)
        self._compare(name)

    # publishing

    @rule(asks=st.dictionaries(KEYS, RESERVATIONS, min_size=1))
    def reserve(self, asks: dict[str, Reservation]) -> None:
        """A producer asks whether jobs may be published, together."""
        time.sleep(WAIT_S)  # calls are compared with what was before and comes after
        asked = [(self._key(name), ask) for name, ask in asks.items()]
        answers = [store.reserve(asked) for store in (self.model, self.store)]
        time.sleep(WAIT_S)
        delay_us = 1_000 * asked[0][1].delay_ms
        model_us, store_us = (each[0].called_us + delay_us for each in answers)
        self.calls.append((model_us, store_us))
        for name, expected, got in zip(asks, *answers, strict=True):
            if isinstance(expected, Reserved) and isinstance(got, Reserved):
                assert abs(expected.delay_ms - got.delay_ms) < CLOSE_MS
                _learn(self.turns[name], expected.turn, got.turn)
            else:
                assert got == expected
            self._compare(name)

    @rule(words=st.dictionaries(KEYS, CONFIRMATIONS, min_size=1))
    def confirm(self, words: dict[str, Confirmation]) -> None:
        """A producer's jobs were published."""
        durations = [ms for word in words.values() for ms in (word.keep_ms, word.hold_ms)]
        self._settle_down(*durations)
        for store in (self.model, self.store):
            store.confirm([(self._key(name), word) for name, word in words.items()])
        self._settle_down(*durations)
        for name in words:
            self._compare(name)

    @rule(name=KEYS, job=JOBS)
    def unreserve(self, name: str, job: str) -> None:
        """A job was not published after all."""
        self._tell(name, lambda store: store.unreserve(self._key(name), job=job), 0)

    # looking

    @rule(name=KEYS, order=st.sampled_from(ORDERS))
    def operate(self, name: str, order: str) -> None:
        """An operator looks or forgets; a newer release does what it knows."""
        if order == "forget":
            expected, got = self._ask(name, lambda store: store.forget(self._key(name)))
            assert got == expected
        elif order == "scan":
            found = [sorted(store.scan(self.prefix)) for store in (self.model, self.store)]
            assert found[1] == found[0]
        else:
            self._overwrite(name, "N")
        self._compare(name)

    @rule(name=KEYS, job=JOBS, line=LINES, horizon_ms=HORIZONS)
    def reopen(self, name: str, job: str, line: int, horizon_ms: int) -> None:
        """An operator lets a job run again."""
        expected, got = self._ask(
            name,
            lambda store: store.reopen(self._key(name), job=job, line=line, horizon_ms=horizon_ms),
            horizon_ms,
        )
        assert got == expected
        self._compare(name)

    def _overwrite(self, name: str, state: str) -> None:
        if self.plant is None or self.model.peek(self._key(name)) is None:
            return
        self.model._records[self._key(name)].state = state  # noqa: SLF001 - there is no other way
        self.plant(self._key(name), str(state))

    # both sides

    def _key(self, name: str) -> str:
        return self.prefix + name

    def _held(self, name: str) -> Record | None:
        record = self.model.peek(self._key(name))
        return record if record is not None and record.state is State.RUNNING else None

    def _token(self, name: str, recent: int) -> tuple[int, int]:
        """One of the last tokens of the key, or one that nobody ever got."""
        return _recent(self.tokens[name], recent)

    def _turns(self, name: str, turn: int | None) -> tuple[int, int]:
        if turn is None:
            return 0, 0
        if turn >= 0:
            return _recent(self.turns[name], turn)
        model_us, store_us = _recent(self.calls, -turn - 1)
        return -model_us, -store_us

    def _ask(self, name: str, ask: Callable[[Store], Any], *durations_ms: int) -> tuple[Any, Any]:
        record = self.model.peek(self._key(name))
        if record is not None and len(record.facts) >= NEARLY_FULL:
            self._settle_down(*durations_ms)
        answers = ask(self.model), ask(self.store)
        self._settle_down(*durations_ms)
        return answers

    def _tell(self, name: str, tell: Callable[[Store], None], horizon_ms: int) -> None:
        self._ask(name, tell, horizon_ms)
        self._compare(name)

    def _settle_down(self, *durations_ms: int) -> None:
        """Wait until what ends at once has ended."""
        if OVER_AT_ONCE_MS in durations_ms:
            time.sleep(WAIT_S)

    def _compare(self, name: str) -> None:
        expected, got = (store.peek(self._key(name)) for store in (self.model, self.store))
        if expected is None or got is None:
            assert got == expected
            return
        _learn(self.tokens[name], expected.token, got.token)
        names = {store: model for model, store in self.tokens[name]}
        got.token = names.get(got.token, got.token)
        got.suspects = tuple(names.get(token, token) for token in got.suspects)
        for job in expected.facts.keys() & got.facts.keys():
            fact, at_ms = got.facts[job], expected.facts[job].at_ms
            fact.token, fact.at_ms = names.get(fact.token, fact.token), _if_close(fact.at_ms, at_ms)
        got.until_ms = _if_close(got.until_ms, expected.until_ms)
        got.replayed_ms = _if_close(got.replayed_ms, expected.replayed_ms)
        if got.expires_ms is not None and expected.expires_ms is not None:
            got.expires_ms = _if_close(got.expires_ms, expected.expires_ms)
        self._liken_reservations(name, expected, got)
        assert got == expected

    def _liken_reservations(self, name: str, expected: Record, got: Record) -> None:
        turns = self.turns[name]
        if expected.waiting is not None and got.waiting is not None:
            _learn(turns, expected.waiting.turn, got.waiting.turn)
            got.waiting = _likened(got.waiting, expected.waiting)
        assert (expected.latest, got.latest) in turns
        got.latest = expected.latest
        if expected.held is not None and got.held is not None:
            until_ms = _if_close(got.held.until_ms, expected.held.until_ms)
            since_ms = _if_close(got.held.since_ms, expected.held.since_ms)
            got.held = replace(got.held, until_ms=until_ms, since_ms=since_ms)


def _recent(known: list[tuple[int, int]], at: int) -> tuple[int, int]:
    return known[-1 - min(at, len(known) - 1)]


def _learn(known: list[tuple[int, int]], model: int, store: int) -> None:
    """The two stores gave out a number: the same again, or both a higher one."""
    if (model, store) in known or model == store == 0:
        return
    assert all(model > each[0] and store > each[1] for each in known), "numbers must rise"
    known.append((model, store))


def _likened(got: Waiting, expected: Waiting) -> Waiting:
    return replace(
        got,
        until_ms=_if_close(got.until_ms, expected.until_ms),
        turn=expected.turn,
        due_ms=_if_close(got.due_ms, expected.due_ms),
        first_ms=_if_close(got.first_ms, expected.first_ms),
    )


def _if_close(got_ms: int, expected_ms: int) -> int:
    """Take two readings of a clock as one if they may be."""
    return expected_ms if abs(got_ms - expected_ms) < CLOSE_MS else got_ms
