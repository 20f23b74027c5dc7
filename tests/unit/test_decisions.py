"""The protocol's table, row by row, and what holds whatever is asked in whatever order."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reliable_tasks.core import decisions
from reliable_tasks.core.decisions import Claim
from reliable_tasks.core.lines import line_of, retries_of
from reliable_tasks.core.records import (
    MAX_FACTS,
    Answer,
    Busy,
    Fact,
    Finished,
    Granted,
    Outcome,
    Poisoned,
    Record,
    Settled,
    Stale,
    State,
    Superseded,
    Unreadable,
)

NOW_US = 5_000_000_000_123
NOW_MS = NOW_US // 1_000
LEASE_MS, HORIZON_MS, LEFT_MS = 30_000, 900_000, 700
RETRY, HOP = line_of(1, 0), line_of(0, 1)
TOKEN = 1_000

GRANTED = Granted(NOW_US)
TAKEN_OVER = Granted(NOW_US, crashes=1)
CLOSED, OLDER = Superseded("closed"), Superseded("older")
COPY_WAITS, OTHER_WAITS = Busy(LEFT_MS, same_job=True), Busy(LEFT_MS, same_job=False)
UNREADABLE = Unreadable()


def asking(job: str = "mine", line: int = RETRY, **terms: Any) -> Claim:
    defaults: dict[str, Any] = {
        "delivery": "now",
        "lease_ms": LEASE_MS,
        "horizon_ms": HORIZON_MS,
        "max_crashes": 3,
    }
    return Claim(job=job, line=line, **(defaults | terms))


def record(state: State | str, *, live: bool = False, **fields: Any) -> Record:
    """The record of *mine*, whose newest message is its first retry."""
    defaults: dict[str, Any] = {
        "token": TOKEN,
        "delivery": "before",
        "until_ms": NOW_MS + LEFT_MS if live else NOW_MS,
        "line": RETRY,
        "retries": 1,
        "expires_ms": NOW_MS + HORIZON_MS,
    }
    if state in {State.DONE, State.FAILED}:
        defaults |= {"outcome": b"outcome", "replayed_ms": 5}
    return Record(state, "mine", **(defaults | fields))


def replayed(state: State) -> Finished:
    return Finished(state, b"outcome", same_job=True, replays=1)


def shared(state: State) -> Finished:
    return Finished(state, b"outcome", same_job=False)


D, F, LIVE = State.DONE, State.FAILED, True
SHUT = {"closed": True}
DIED = {"suspects": (1, 2, 3)}

# the record, and what it answers to the same job's current copy, its older copy, another job
TABLE: list[tuple[str, Record | None, Answer, Answer, Answer]] = [
    ("none", None, GRANTED, GRANTED, GRANTED),
    ("running", record(State.RUNNING, live=LIVE), COPY_WAITS, OLDER, OTHER_WAITS),
    ("running, over", record(State.RUNNING), TAKEN_OVER, OLDER, TAKEN_OVER),
    ("draining", record(State.RUNNING, live=LIVE, draining=True), COPY_WAITS, OLDER, OTHER_WAITS),
    ("draining, over", record(State.RUNNING, draining=True), GRANTED, OLDER, GRANTED),
    ("retrying", record(State.RETRYING, live=LIVE), GRANTED, OLDER, OTHER_WAITS),
    ("retrying, over", record(State.RETRYING), GRANTED, OLDER, GRANTED),
    ("released", record(State.IDLE), GRANTED, OLDER, GRANTED),
    ("done", record(D, live=LIVE), replayed(D), OLDER, shared(D)),
    ("done, over", record(D), replayed(D), OLDER, GRANTED),
    ("done, closed", record(D, live=LIVE, **SHUT), CLOSED, CLOSED, shared(D)),
    ("done, closed, over", record(D, **SHUT), CLOSED, CLOSED, GRANTED),
    ("failed, remembered", record(F, live=LIVE), replayed(F), OLDER, shared(F)),
    ("failed, released", record(F), replayed(F), OLDER, GRANTED),
    ("failed, closed", record(F, **SHUT), CLOSED, CLOSED, GRANTED),
    ("quarantined", record(State.QUARANTINED, **DIED), Poisoned(3), OLDER, Poisoned(3)),
    ("quarantined, closed", record(State.QUARANTINED, **SHUT, **DIED), CLOSED, CLOSED, Poisoned(3)),
    ("of a newer release", record("N", live=LIVE), UNREADABLE, UNREADABLE, UNREADABLE),
]
ROWS = [pytest.param(*row[1:], id=row[0]) for row in TABLE]


class TestTable:
    """One test for each column."""

    @pytest.mark.parametrize(("before", "current", "older", "other"), ROWS)
    def test_the_current_copy(
        self, before: Record | None, current: Answer, older: Answer, other: Answer
    ) -> None:
        """What the newest message of the record's own job is told."""
        assert decisions.claim(deepcopy(before), asking(), NOW_US)[1] == current

    @pytest.mark.parametrize(("before", "current", "older", "other"), ROWS)
    def test_an_older_copy(
        self, before: Record | None, current: Answer, older: Answer, other: Answer
    ) -> None:
        """What a message is told that has been followed by a newer one."""
        assert decisions.claim(deepcopy(before), asking(line=HOP), NOW_US)[1] == older

    @pytest.mark.parametrize(("before", "current", "older", "other"), ROWS)
    def test_another_job(
        self, before: Record | None, current: Answer, older: Answer, other: Answer
    ) -> None:
        """What any message of another job is told."""
        for line in (0, HOP, RETRY, 2 * RETRY):
            answer = decisions.claim(deepcopy(before), asking("other", line), NOW_US)[1]
            assert answer == other

    @pytest.mark.parametrize(("before", "current", "older", "other"), ROWS)
    def test_a_grant_is_the_same_from_everywhere(
        self, before: Record | None, current: Answer, older: Answer, other: Answer
    ) -> None:
        """Whatever was before, a granted record knows its execution and nothing of the last one."""
        for job, answer in (("mine", current), ("other", other)):
            after, _ = decisions.claim(deepcopy(before), asking(job, payload="p"), NOW_US)
            if not isinstance(answer, Granted):
                assert after.job == "mine"
                continue
            assert after == Record(
                State.RUNNING,
                job,
                token=NOW_US,
                delivery="now",
                until_ms=NOW_MS + LEASE_MS,
                line=RETRY,
                retries=1,
                suspects=(TOKEN,) * answer.crashes,
                payload="p",
                facts=after.facts,
                expires_ms=NOW_MS + LEASE_MS + HORIZON_MS,
            )

    def test_the_running_jobs_own_retry(self) -> None:
        """Only more retries make a copy the retry of what runs, and only for the same job."""
        running = record(State.RUNNING, live=LIVE)
        for line, newer in ((RETRY, False), (RETRY + 9 * HOP, False), (2 * RETRY, True)):
            answer = decisions.claim(running, asking(line=line), NOW_US)[1]
            assert answer == replace(COPY_WAITS, newer=newer)

    def test_a_key_that_nobody_holds_binds_nobody(self) -> None:
        """A release is no execution whose payload others must share."""
        before = record(State.IDLE, live=LIVE, payload="p")

        assert decisions.claim(before, asking("other", payload="q"), NOW_US)[1] == GRANTED

    def test_the_last_millisecond(self) -> None:
        """A lease of 1 ms is live in its millisecond and over in the next."""
        held, _ = decisions.claim(None, asking(lease_ms=1), NOW_US)

        assert isinstance(decisions.claim(held, asking("other"), NOW_US + 800)[1], Busy)
        later, answer = decisions.claim(held, asking("other"), NOW_US + 900)
        assert answer == Granted(NOW_US + 900, crashes=1)
        assert later.job == "other"

    def test_a_lease_ends_with_its_last_millisecond(self) -> None:
        """A lease that ends now is over for the main process's word, too."""
        over = decisions.end(record(State.RUNNING), "mine", False, HORIZON_MS, NOW_US)
        assert over.state is State.FAILED

        live = record(State.RUNNING, until_ms=NOW_MS + 1)
        assert decisions.end(live, "mine", False, HORIZON_MS, NOW_US).state is State.RUNNING

    def test_a_killed_job_has_no_outcome(self) -> None:
        """Nothing that stood in the record before is taken for the outcome of a killed job."""
        before = record(State.IDLE, outcome=b"of long ago")

        assert decisions.end(before, "mine", True, HORIZON_MS, NOW_US).outcome is None


class TestTokens:
    """Fencing tokens rise."""

    def test_a_token_is_the_time(self) -> None:
        """Tokens of a lost record are above those before, because time is."""
        assert decisions.claim(None, asking(), NOW_US)[1] == Granted(NOW_US)

    @pytest.mark.parametrize("state", [State.IDLE, State.RUNNING, State.RETRYING])
    def test_a_clock_that_was_set_back(self, state: State) -> None:
        """As long as the record is there its next token is higher, whatever the clock says."""
        ahead = record(state, token=NOW_US + 10**9)
        answer = decisions.claim(ahead, asking(), NOW_US)[1]

        assert isinstance(answer, Granted)
        assert answer.token == NOW_US + 10**9 + 1

    def test_the_end_of_a_job_takes_a_token(self) -> None:
        """A killed execution is fenced off, with the clock set back too."""
        ahead = record(State.RUNNING, live=LIVE, token=NOW_US + 10**9)
        ended = decisions.end(ahead, "mine", True, HORIZON_MS, NOW_US)

        assert ended.token == NOW_US + 10**9 + 1
        behind = record(State.RUNNING, live=LIVE)
        assert decisions.end(behind, "mine", True, HORIZON_MS, NOW_US).token == NOW_US


class TestLines:
    """The order of a job's messages."""

    def test_retries_come_before_hops(self) -> None:
        """A retry is newer than any number of deferrals of the attempt before it."""
        assert line_of(0, 0) < line_of(0, 1) < line_of(0, 10**9) < line_of(1, 0) < line_of(1, 1)

    @given(st.integers(0, 10_000), st.integers(0, 10**12))
    def test_retries_can_be_read_back(self, retries: int, hop: int) -> None:
        """However often a message was deferred, its number of retries is known."""
        assert retries_of(line_of(retries, hop)) == retries


class TestHandOver:
    """What is remembered of a job when another one takes its key."""

    @pytest.mark.parametrize(
        ("before", "expected"),
        [
            (record(State.RUNNING, line=0), None),
            (record(State.IDLE, line=0), None),
            (record(State.IDLE, line=0, closed=True), Fact(closed=True)),
            (record(State.RUNNING), Fact(RETRY)),
            (record(State.RETRYING, line=2 * RETRY), Fact(2 * RETRY)),
            (
                record(D, replays=2),
                Fact(RETRY, "D", False, 2, outcome=b"outcome", delivery="before", token=TOKEN),
            ),
            (
                record(F, line=0),
                Fact(0, "F", outcome=b"outcome", delivery="before", token=TOKEN),
            ),
            (record(D, closed=True, replays=1), Fact(RETRY, "D", True, 1, token=TOKEN)),
        ],
    )
    def test_only_what_is_needed_is_kept(self, before: Record, expected: Fact | None) -> None:
        """A job that can simply run again leaves nothing; one that ended leaves its outcome."""
        after, answer = decisions.claim(before, asking("other"), NOW_US)

        assert isinstance(answer, Granted)
        facts = {} if expected is None else {"mine": replace(expected, at_ms=NOW_MS)}
        assert after.facts == facts

    def test_what_was_known_of_the_new_job_comes_back(self) -> None:
        """A job that takes the key brings its newest message, and its fact goes."""
        before = record(State.IDLE, facts={"other": Fact(3 * RETRY), "third": Fact(HOP)})
        after, _ = decisions.claim(before, asking("other", 3 * RETRY), NOW_US)

        assert after.line == 3 * RETRY
        assert after.facts == {"third": Fact(HOP), "mine": Fact(RETRY, at_ms=NOW_MS)}

    def test_the_oldest_facts_go(self) -> None:
        """One fact too many makes room for several, so that not every write has to."""
        facts = {f"job-{age}": Fact(HOP, at_ms=NOW_MS - age) for age in range(MAX_FACTS)}
        before = record(State.RUNNING, live=LIVE, facts=facts)
        after = decisions.advance(before, "new", HOP, HORIZON_MS, NOW_US)

        youngest = {f"job-{age}" for age in range(MAX_FACTS - 8 - 1)}
        assert set(after.facts) == {"new", *youngest}

    def test_what_is_past_the_horizon_goes_too(self) -> None:
        """When there is need, all that nobody can ask about any more makes room."""
        ages_ms = [0] * 30 + [HORIZON_MS - 1] * 10 + [HORIZON_MS] * 12 + [HORIZON_MS + 1] * 12
        facts = {
            f"job-{number}": Fact(HOP, at_ms=NOW_MS - age_ms)
            for number, age_ms in enumerate(ages_ms)
        }
        before = record(State.RUNNING, live=LIVE, facts=facts)
        after = decisions.advance(before, "new", HOP, HORIZON_MS, NOW_US)

        assert set(after.facts) == {"new", *(f"job-{number}" for number in range(40))}

    def test_a_full_set_of_facts_is_left_alone(self) -> None:
        """Nothing is pruned before there is need, old as it may be."""
        facts = {f"job-{age}": Fact(HOP, at_ms=0) for age in range(MAX_FACTS - 1)}
        before = record(State.RUNNING, live=LIVE, facts=facts)
        after = decisions.advance(before, "new", HOP, HORIZON_MS, NOW_US)

        assert len(after.facts) == MAX_FACTS


def beside(state: State) -> Record:
    """The record of another running job, which remembers *mine* as ended."""
    fact = Fact(RETRY, str(state), outcome=b"outcome", at_ms=1, token=TOKEN)
    return replace(record(State.RUNNING, live=LIVE, facts={"mine": fact}), job="holder")


@pytest.mark.parametrize("held", [record, beside])
@pytest.mark.parametrize("state", [D, F])
class TestReplays:
    """Answers that must be passed on, and who dies of it; the key may have moved on."""

    def test_the_last_one_may_still_be_at_work(
        self, held: Callable[[State], Record], state: State
    ) -> None:
        """At the cap a copy waits for one lease from the last replay, then it is poison."""
        ask = asking(max_crashes=1)
        after, first = decisions.claim(held(state), ask, NOW_US)
        assert first == replayed(state)

        ask = replace(ask, delivery="later")
        for left_ms in (LEASE_MS, LEASE_MS - 1, 1):
            at_us = NOW_US + (LEASE_MS - left_ms) * 1_000
            assert decisions.claim(after, ask, at_us)[1] == Busy(left_ms, same_job=True)
        assert decisions.claim(after, ask, NOW_US + LEASE_MS * 1_000)[1] == Poisoned(1)

    def test_one_that_lives_is_taken_off_the_count(
        self, held: Callable[[State], Record], state: State
    ) -> None:
        """A replay is spared once, by its own delivery."""
        after, _ = decisions.claim(held(state), asking(delivery="one"), NOW_US)
        after, second = decisions.claim(after, asking(delivery="two"), NOW_US)
        assert second == replace(replayed(state), replays=2)

        for delivery in ("one", "two", "two"):
            decisions.spare(after, "mine", delivery)
        third = decisions.claim(after, asking(delivery="three"), NOW_US)[1]
        assert third == replace(replayed(state), replays=2)

    def test_nothing_is_taken_off_nothing(
        self, held: Callable[[State], Record], state: State
    ) -> None:
        """A job that was never replayed has no count to lower."""
        before = held(state)
        after = deepcopy(before)
        for job in ("mine", "stranger"):
            for delivery in ("before", ""):
                decisions.spare(after, job, delivery)

        assert after == before


class TestKeeping:
    """How long a record is kept."""

    @pytest.mark.parametrize(
        ("outcome", "kept_ms"),
        [
            (Outcome(D, keep_ms=0), HORIZON_MS),
            (Outcome(D, keep_ms=HORIZON_MS + 5), HORIZON_MS + 5),
            (Outcome(F, keep_ms=7), HORIZON_MS),
            (Outcome(F, keep_ms=2 * HORIZON_MS), 2 * HORIZON_MS),
            (Outcome(State.RETRYING, keep_ms=7), HORIZON_MS + 7),
            (Outcome(State.IDLE), HORIZON_MS),
        ],
    )
    def test_after_an_outcome(self, outcome: Outcome, kept_ms: int) -> None:
        """Ended: the longer of retention and horizon. Waiting: until its time, and the horizon."""
        before = record(State.RUNNING, live=LIVE)
        after, answer = settled(before, outcome)

        assert answer == Settled()
        assert after.expires_ms == NOW_MS + kept_ms
        assert after.until_ms == NOW_MS + outcome.keep_ms

    @pytest.mark.parametrize("job", ["mine", "other"])
    def test_words_never_shorten(self, job: str) -> None:
        """Closing and advancing keep the record for the horizon, or longer if it was."""
        for expires_ms, expected_ms in (
            (NOW_MS + 1, NOW_MS + HORIZON_MS),
            (NOW_MS + 2 * HORIZON_MS, NOW_MS + 2 * HORIZON_MS),
            (None, None),
        ):
            before = record(D, expires_ms=expires_ms)
            closed = decisions.close(deepcopy(before), job, None, HORIZON_MS, NOW_US)
            assert closed is not None
            assert closed.expires_ms == expected_ms
            advanced = decisions.advance(deepcopy(before), job, 2 * RETRY, HORIZON_MS, NOW_US)
            assert advanced.expires_ms == expected_ms

    def test_quarantine_does_not_expire(self) -> None:
        """A quarantined record is kept until it is forgotten."""
        after, _ = decisions.claim(record(State.RUNNING), asking(max_crashes=1), NOW_US)

        assert (after.state, after.expires_ms) == (State.QUARANTINED, None)

    def test_a_quarantined_key_is_not_draining(self) -> None:
        """That the last execution's end was announced means nothing for a key that runs no more."""
        before = record(State.RUNNING, draining=True, suspects=(1,))
        after, answer = decisions.claim(before, asking(max_crashes=1), NOW_US)

        assert answer == Poisoned(1)
        assert not after.draining

    def test_renewal(self) -> None:
        """A renewed record outlives its lease by the horizon."""
        held = record(State.RUNNING)

        assert decisions.renew(held, TOKEN, LEASE_MS, HORIZON_MS, NOW_US)
        assert held.until_ms == NOW_MS + LEASE_MS
        assert held.expires_ms == NOW_MS + LEASE_MS + HORIZON_MS


def settled(
    before: Record | None, outcome: Outcome, *, token: int = TOKEN, job: str = "mine"
) -> tuple[Record, Settled | Stale]:
    return decisions.settle(
        before,
        token=token,
        job=job,
        line=RETRY,
        outcome=outcome,
        horizon_ms=HORIZON_MS,
        now_us=NOW_US,
    )


# --- whatever is asked ------------------------------------------------------------------------

LIVES_MS = 50
HORIZON = 400
FEW_JOBS = st.sampled_from(["a", "b", "c"])
ANY_JOB = st.one_of(FEW_JOBS, FEW_JOBS, st.integers(0, 200).map("job-{}".format))
ANY_LINE = st.builds(line_of, st.integers(0, 2), st.integers(0, 2))
ANY_OUTCOME = st.builds(
    Outcome,
    st.sampled_from([State.DONE, State.FAILED, State.RETRYING, State.IDLE]),
    data=st.sampled_from([None, b"result"]),
    keep_ms=st.sampled_from([0, LIVES_MS, 3 * HORIZON]),
    died=st.just(False),
)
Step = tuple[str, dict[str, Any]]
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(
        st.just("claim"),
        st.fixed_dictionaries(
            {"job": ANY_JOB, "line": ANY_LINE, "limit": st.sampled_from([1, 3, 99])}
        ),
    ),
    st.tuples(st.just("claim"), st.fixed_dictionaries({"job": FEW_JOBS, "line": ANY_LINE})),
    st.tuples(
        st.just("settle"),
        st.fixed_dictionaries({"recent": st.integers(0, 3), "outcome": ANY_OUTCOME}),
    ),
    st.tuples(st.just("renew"), st.fixed_dictionaries({"recent": st.integers(0, 3)})),
    st.tuples(st.just("close"), st.fixed_dictionaries({"job": ANY_JOB})),
    st.tuples(st.just("end"), st.fixed_dictionaries({"job": ANY_JOB, "killed": st.booleans()})),
    st.tuples(st.just("drain"), st.fixed_dictionaries({"job": FEW_JOBS})),
    st.tuples(
        st.just("spare"), st.fixed_dictionaries({"job": FEW_JOBS, "recent": st.integers(0, 2)})
    ),
    st.tuples(st.just("advance"), st.fixed_dictionaries({"job": ANY_JOB, "line": ANY_LINE})),
    st.tuples(st.just("crowd"), st.fixed_dictionaries({"size": st.integers(1, 80)})),
)
PAUSES_US = st.sampled_from([1, 999, LIVES_MS * 1_100, HORIZON * 300, HORIZON * 1_100])


@dataclass
class World:
    """One key, asked anything, under watch."""

    now_us: int = NOW_US
    record: Record | None = None
    grants: list[tuple[int, str, int]] = field(default_factory=list)  # token, job, line
    live_until_ms: dict[int, int] = field(default_factory=dict)
    ended_ms: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    heard_of: int = 0

    @property
    def now_ms(self) -> int:
        return self.now_us // 1_000

    def do(self, step: Step, pause_us: int) -> None:
        """Let time pass, ask, and check what always holds."""
        self.now_us += pause_us
        expires_ms = self.record.expires_ms if self.record is not None else None
        if expires_ms is not None and expires_ms < self.now_ms:
            self.record = None
        is_full = self.record is not None and len(self.record.facts) >= MAX_FACTS
        name, arguments = step
        getattr(self, name)(**arguments)
        if is_full or name == "crowd":
            self.forget_who_was_pushed_out()
        if self.record is not None:
            assert len(self.record.facts) <= MAX_FACTS
            assert self.record.job not in self.record.facts
            assert len(set(self.record.suspects)) == len(self.record.suspects)

    def twice(self, ask: Callable[[Record | None], tuple[Record | None, Any]]) -> Any:
        """Ask, and again as after a lost reply: the same answer, and nothing changes more."""
        after, answer = ask(deepcopy(self.record))
        again, same = ask(deepcopy(after))
        assert same == answer
        assert again == after
        self.record = after
        return answer

    def claim(self, job: str, line: int, limit: int = 3) -> None:
        ask = asking(
            job,
            line,
            delivery=f"at {self.now_us}",
            lease_ms=LIVES_MS,
            horizon_ms=HORIZON,
            max_crashes=limit,
        )
        self.asked.append(ask.delivery)
        answer = self.twice(lambda record: decisions.claim(record, ask, self.now_us))
        if not isinstance(answer, Granted):
            return
        assert all(answer.token > token for token, _, _ in self.grants)
        assert not [until for until in self.live_until_ms.values() if until > self.now_ms]
        assert self.now_ms - self.ended_ms.get(job, 0) > HORIZON
        assert self.record is not None
        assert answer.token not in self.record.suspects
        self.grants.append((answer.token, job, line))
        self.live_until_ms = {answer.token: self.now_ms + LIVES_MS}

    def settle(self, recent: int, outcome: Outcome) -> None:
        if not self.grants:
            return
        token, job, line = self.grants[-1 - recent % len(self.grants)]
        before = deepcopy(self.record)
        answer = self.twice(
            lambda record: decisions.settle(
                record,
                token=token,
                job=job,
                line=line,
                outcome=outcome,
                horizon_ms=HORIZON,
                now_us=self.now_us,
            )
        )
        if answer == Settled():
            self.live_until_ms.pop(token, None)
            if outcome.state in {State.DONE, State.FAILED}:
                self.ended_ms.setdefault(job, self.now_ms)
            return
        assert before is not None
        assert self.record is not None
        assert set(self.record.suspects) <= set(before.suspects)
        assert replace(self.record, suspects=()) == replace(before, suspects=())

    def renew(self, recent: int) -> None:
        if not self.grants:
            return
        token, _, _ = self.grants[-1 - recent % len(self.grants)]
        before = deepcopy(self.record)

        def ask(record: Record | None) -> tuple[Record | None, bool]:
            return record, decisions.renew(record, token, LIVES_MS, HORIZON, self.now_us)

        if self.twice(ask):
            assert before is not None
            assert (before.state, before.token) == (State.RUNNING, token)
            self.live_until_ms = {token: self.now_ms + LIVES_MS}
        elif before is not None:
            assert self.record is not None
            assert replace(self.record, suspects=()) == replace(before, suspects=())

    def close(self, job: str) -> None:
        self.twice(lambda record: (decisions.close(record, job, None, HORIZON, self.now_us), None))

    def end(self, job: str, killed: bool) -> None:
        before = deepcopy(self.record)
        self.twice(lambda record: (decisions.end(record, job, killed, HORIZON, self.now_us), None))
        if before is not None and before.job == job:
            if before.state is State.QUARANTINED:
                return
            if before.state is State.RUNNING and not killed and before.until_ms > self.now_ms:
                assert self.record == before
                return
            self.live_until_ms = {}
        self.ended_ms.setdefault(job, self.now_ms)

    def spare(self, job: str, recent: int) -> None:
        if recent >= len(self.asked):
            return

        def ask(record: Record | None) -> tuple[Record | None, None]:
            return record, decisions.spare(record, job, self.asked[-1 - recent])

        self.twice(ask)

    def drain(self, job: str) -> None:
        def ask(record: Record | None) -> tuple[Record | None, None]:
            return record, decisions.drain(record, job)

        self.twice(ask)

    def advance(self, job: str, line: int) -> None:
        self.twice(
            lambda record: (decisions.advance(record, job, line, HORIZON, self.now_us), None)
        )

    def crowd(self, size: int) -> None:
        for _ in range(size):
            self.heard_of += 1
            self.now_us += 1_000
            self.record = decisions.advance(
                self.record, f"crowd-{self.heard_of}", HOP, HORIZON, self.now_us
            )
            assert len(self.record.facts) <= MAX_FACTS

    def forget_who_was_pushed_out(self) -> None:
        """That an ended job never runs again is promised for 64 jobs of a key."""
        assert self.record is not None
        known = {self.record.job, *self.record.facts}
        self.ended_ms = {job: at_ms for job, at_ms in self.ended_ms.items() if job in known}


@given(st.lists(st.tuples(STEPS, PAUSES_US), max_size=60))
def test_whatever_is_asked(steps: list[tuple[Step, int]]) -> None:
    """Tokens rise, one lease lives, an ended job stays ended, a late word changes nothing."""
    world = World()
    for step, pause_us in steps:
        world.do(step, pause_us)


@given(
    st.lists(
        st.tuples(STEPS.filter(lambda step: step[0] != "crowd"), st.integers(-5_000, 50)),
        max_size=30,
    )
)
def test_tokens_rise_on_a_clock_that_runs_backwards(steps: list[tuple[Step, int]]) -> None:
    """While the record is there each grant is above all before, whatever the clock says."""
    held: Record | None = None
    tokens: list[int] = []
    now_us = NOW_US
    for place, ((name, arguments), pause_us) in enumerate(steps):
        now_us += pause_us
        if name == "claim":
            ask = asking(
                arguments["job"], arguments["line"], delivery=str(place), lease_ms=1, max_crashes=99
            )
            held, answer = decisions.claim(held, ask, now_us)
            if isinstance(answer, Granted):
                tokens.append(answer.token)
        elif name == "end":
            held = decisions.end(held, arguments["job"], True, HORIZON_MS, now_us)
    assert tokens == sorted(set(tokens))
