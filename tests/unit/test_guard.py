"""The guard, row by row of its table, on the memory store with a message of no Celery."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from reliable_tasks import (
    AlreadyRunning,
    IdempotencyKeyReused,
    LeaseLost,
    Quarantined,
    ResultNotKept,
    StoreUnavailable,
    guard,
)
from reliable_tasks.burial import Shelf
from reliable_tasks.core.lines import line_of
from reliable_tasks.core.records import Confirmation, Granted, Outcome, Reservation, Reserved, State
from reliable_tasks.core.settings import read
from reliable_tasks.guard import Guard
from reliable_tasks.leases import Lease
from reliable_tasks.message import Drop, Event, Requeue, Unsendable
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing.clock import ManualClock

KEY, LEASE_MS, HORIZON_MS = "rt1:t:k", 30_000, 3_600_000


class NotYet(Exception):
    """A retry that was published."""


class GivenBack(Exception):
    """The body handed its delivery back."""


class Exiting(BaseException):
    """The process ends."""


class FlakyStore(MemoryStore):
    """Fails the operations in *down*, as often as it says there."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.down: dict[str, float] = {}
        self.asked: list[str] = []


def _failing(name: str) -> Callable[..., Any]:
    def ask(self: FlakyStore, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(name)
        if self.down.get(name, 0) > 0:
            self.down[name] -= 1
            raise StoreUnavailable(name, "down")
        return getattr(MemoryStore, name)(self, *args, **kwargs)

    return ask


SHELF = Shelf("unit")

for _name in ("claim", "settle", "close", "spare", "advance", "bury"):
    setattr(FlakyStore, _name, _failing(_name))


@dataclass
class FakeMessage:
    """A message that notes what is done with it."""

    body: Callable[[Lease], Any] = lambda _: "value"
    key: str = KEY
    job: str = "a"
    payload: str = ""
    retries: int = 0
    hop: int = 0
    has_key: bool = True
    can_wait: bool = True
    carries: bool = False
    carries_errors: bool = False
    flows: bool = False
    second_look_ms: int | None = None
    longest_wait_ms: int | None = None
    broken: dict[str, Any] = field(default_factory=dict)
    deferred: list[int] = field(default_factory=list)
    abandoned: tuple[str, ...] = ()
    turn: int = 0
    names: tuple[str, ...] = ()
    sent: list[Any] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    runs: int = 0
    retried: bool = False
    past: Sequence[Mapping[str, Any]] = ()

    def _attempt(self, name: str) -> None:
        left, error = self.broken.get(name, (0, None))
        if left > 0:
            self.broken[name] = (left - 1, error)
            raise error

    def run(self, lease: Lease) -> Any:
        self.runs += 1
        return self.body(lease)

    def outcome_of(self, error: BaseException | None) -> Outcome | None:
        if self.retried or isinstance(error, NotYet):
            return Outcome(State.RETRYING, keep_ms=60_000)
        if isinstance(error, GivenBack):
            return Outcome(State.IDLE)
        if error is not None and not isinstance(error, Exception):
            return Outcome(State.IDLE, died=True)
        return None

    def ending(self, error: BaseException | None) -> BaseException | None:
        return NotYet() if self.retried and error is None else error

    def defer(self, wait_ms: int, abandoned: tuple[str, ...] = ()) -> None:
        self._attempt("defer")
        self.names = abandoned
        self.deferred.append(wait_ms)

    def revoke(self, reason: str) -> None:
        self.revoked.append(reason)

    def send(self, value: Any) -> None:
        self._attempt("send")
        self.sent.append(value)

    def send_error(self, error: BaseException) -> None:
        self._attempt("send_error")
        self.sent.append(error)

    def dump(self, value: Any) -> bytes | None:
        return None if value == "undumpable" else str(value).encode()

    def load(self, data: bytes) -> Any:
        return data.decode()

    def dump_error(self, error: BaseException) -> bytes | None:
        return None if str(error) == "undumpable" else str(error).encode()

    def load_error(self, data: bytes) -> BaseException:
        return ValueError(data.decode())

    def letter(self, reason: str, at_ms: int, past: Sequence[Mapping[str, Any]]) -> bytes:
        self.past = past
        return f"letter of {self.job}".encode()

    def max_run_ms(self) -> int:
        return HORIZON_MS


class Bench:
    """A store, time, and guards with any options."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = FlakyStore(self.clock)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.slept: list[float] = []
        self.listens = False
        self._deliveries = count()

    def monotonic(self) -> float:
        return self.clock.now_us() / 1_000_000

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)

    def execute(self, message: FakeMessage, **options: Any) -> Any:
        """Let the guard execute *message*."""
        guarded = Guard(
            lambda: self.store,
            read({"lease_seconds": 30, "redelivery_horizon": 3_600, **options}),
            shelf=SHELF,
            tell=lambda event, _, details: self.events.append((event, details)),
            heard=lambda _: self.listens,
            sleep=self._sleep,
        )
        return guarded.execute(message)

    def held(self, job: str = "a", *, retries: int = 0, payload: str = "") -> int:
        """Let an execution elsewhere hold the key; returns its token."""
        answer = self.store.claim(
            KEY, delivery=f"elsewhere-{next(self._deliveries)}", job=job, line=line_of(retries, 0),
            lease_ms=LEASE_MS, horizon_ms=HORIZON_MS, max_crashes=9, payload=payload,
        )  # fmt: skip
        assert isinstance(answer, Granted)
        self.store.asked.clear()
        return answer.token

    def settled(
        self,
        state: State,
        job: str = "a",
        *,
        data: bytes | None = b"value",
        keep_ms: int = 60_000,
    ) -> None:
        """Let a job have ended elsewhere, unclosed."""
        self.store.settle(
            KEY, token=self.held(job), job=job, line=0,
            outcome=Outcome(state, data, keep_ms=keep_ms), horizon_ms=HORIZON_MS,
        )  # fmt: skip
        self.store.asked.clear()

    @property
    def told(self) -> list[str]:
        """Names of the events."""
        return [name for name, _ in self.events]

    @property
    def state(self) -> State | str:
        """The record's state."""
        record = self.store.peek(KEY)
        assert record is not None
        return record.state


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench()
    monkeypatch.setattr(guard, "monotonic", bench.monotonic)
    return bench


def raising(error: BaseException) -> Callable[[Lease], Any]:
    def body(_: Lease) -> Any:
        raise error

    return body


# --- an ordinary run ----------------------------------------------------------------------


def test_a_message_that_carries_nothing_costs_two_questions(bench: Bench) -> None:
    """Claim and settle, and nothing else."""
    message = FakeMessage()

    assert bench.execute(message) == "value"
    assert bench.store.asked == ["claim", "settle"]
    assert bench.state == State.DONE
    assert (message.sent, message.deferred) == ([], [])


def test_what_hangs_on_a_message_is_sent_after_the_record_and_before_the_end(bench: Bench) -> None:
    """Callbacks leave when the outcome is safe, and then the job is closed."""
    message = FakeMessage(carries=True)

    assert bench.execute(message) == "value"
    assert bench.store.asked == ["claim", "settle", "close"]
    assert message.sent == ["value"]


def test_the_lease_knows_attempt_and_crashes(bench: Bench) -> None:
    """A body sees which attempt it is and how many executions died before it."""
    bench.held("a")
    bench.clock.advance(31)
    seen: list[Lease] = []

    bench.execute(FakeMessage(seen.append, retries=1))

    assert (seen[0].attempt, seen[0].crashes) == (2, 1)


def test_a_body_that_seeds_random_numbers_makes_no_two_deliveries_one(bench: Bench) -> None:
    """Every child may call random.seed(0): a copy that comes meanwhile still has to wait."""
    copy = FakeMessage()

    def body(_: Lease) -> None:
        random.seed(0)
        with pytest.raises(Drop):
            bench.execute(copy)

    random.seed(0)
    bench.execute(FakeMessage(body))
    assert copy.runs == 0


@pytest.mark.parametrize("value", ["x" * 11, "undumpable"])
def test_a_result_that_is_not_kept_is_still_returned(bench: Bench, value: str) -> None:
    """A large result is done without its value: the run returns it, a replay says so."""
    assert bench.execute(FakeMessage(lambda _: value), max_result_bytes=10) == value

    copy = FakeMessage(hop=1)
    with pytest.raises(ResultNotKept):
        bench.execute(copy, max_result_bytes=10)
    assert copy.runs == 0
    assert isinstance(copy.sent[0], ResultNotKept)


def test_a_result_at_the_limit_is_kept(bench: Bench) -> None:
    """max_result_bytes itself still fits."""
    bench.execute(FakeMessage(lambda _: "x" * 10), max_result_bytes=10)

    assert bench.execute(FakeMessage(job="b"), max_result_bytes=10) == "x" * 10


# --- copies of the same job ---------------------------------------------------------------


def test_a_copy_waits_while_its_job_runs(bench: Bench) -> None:
    """It is put back with a successor, which the record knows, and does not run."""
    bench.held("a")
    copy = FakeMessage()

    with pytest.raises(Drop):
        bench.execute(copy, when_running="skip")
    assert copy.deferred == [1_050]
    assert bench.told == [Event.DEFERRED]
    assert bench.store.asked == ["claim", "advance"]
    with pytest.raises(Drop):
        bench.execute(FakeMessage())
    assert bench.events[-1] == (Event.DEDUPLICATED, {"reason": "older"})


def test_the_wait_doubles_and_ends_with_the_lease(bench: Bench) -> None:
    """A short job is not waited for long, a long one not asked for often."""
    bench.held("a")
    waits = []
    for hop in range(7):
        copy = FakeMessage(hop=hop)
        with pytest.raises(Drop):
            bench.execute(copy)
        waits += copy.deferred

    assert waits == [1_050, 2_050, 4_050, 8_050, 16_050, 30_050, 30_050]


def test_no_wait_is_longer_than_the_broker_bears(bench: Bench) -> None:
    """A delayed message must not outlive the visibility timeout."""
    bench.held("a")
    copy = FakeMessage(hop=9, longest_wait_ms=700)

    with pytest.raises(Drop):
        bench.execute(copy)
    assert copy.deferred == [700]


def test_the_jobs_own_retry_waits_shortly(bench: Bench) -> None:
    """A retry that arrives before the settle of its original asks again at once."""
    bench.held("a")
    retry = FakeMessage(retries=1)

    with pytest.raises(Drop):
        bench.execute(retry)
    assert retry.deferred == [200]


def test_a_dead_execution_is_taken_over(bench: Bench) -> None:
    """After the lease a copy runs."""
    bench.held("a")
    bench.clock.advance(31)

    assert bench.execute(FakeMessage()) == "value"


def test_a_copy_of_a_done_job_replays_once(bench: Bench) -> None:
    """It gets the stored result, sends what hangs on it, closes; the next copy is dropped."""
    bench.settled(State.DONE)
    copy = FakeMessage(carries=True)

    assert bench.execute(copy, when_done="skip") == "value"
    assert (copy.runs, copy.sent) == (0, ["value"])
    assert bench.events == [(Event.REPLAYED, {"state": "done", "same_job": True})]
    with pytest.raises(Drop):
        bench.execute(FakeMessage(carries=True))
    assert bench.events[-1] == (Event.DEDUPLICATED, {"reason": "closed"})


def test_a_copy_of_a_failed_job_fails_alike(bench: Bench) -> None:
    """Whatever when_failed says: the job itself has ended."""
    bench.settled(State.FAILED, data=b"no")
    copy = FakeMessage(carries_errors=True)

    with pytest.raises(ValueError, match="no"):
        bench.execute(copy)
    assert (copy.runs, len(copy.sent)) == (0, 1)
    with pytest.raises(Drop):
        bench.execute(FakeMessage())


def test_an_error_that_was_not_kept_is_said_to_be_so(bench: Bench) -> None:
    """A failure without a stored form replays as one all the same."""
    bench.settled(State.FAILED, data=None)

    with pytest.raises(ResultNotKept):
        bench.execute(FakeMessage())


def test_a_chord_member_is_looked_at_twice(bench: Bench) -> None:
    """Its first replay leaves a successor, the second one closes."""
    bench.settled(State.DONE)
    first, second = (FakeMessage(hop=hop, second_look_ms=6_000, carries=True) for hop in (0, 1))

    assert bench.execute(first) == "value"
    assert (first.deferred, first.sent) == ([6_000], ["value"])
    assert "close" not in bench.store.asked
    assert bench.execute(second) == "value"
    assert (second.deferred, second.sent) == ([], ["value"])
    assert bench.store.asked[-1] == "close"


def test_a_member_of_another_job_is_looked_at_once(bench: Bench) -> None:
    """Only the job's own completer can have died."""
    bench.settled(State.DONE, "b")
    member = FakeMessage(second_look_ms=6_000, carries=True)

    assert bench.execute(member) == "value"
    assert (member.deferred, member.sent) == ([], ["value"])


# --- other jobs of the key ----------------------------------------------------------------


def test_another_job_waits_by_default(bench: Bench) -> None:
    """Nothing is dropped that nobody asked to drop."""
    bench.held("b")
    message = FakeMessage()

    with pytest.raises(Drop):
        bench.execute(message)
    assert message.deferred == [1_050]


def test_another_job_is_skipped_on_demand(bench: Bench) -> None:
    """when_running='skip' drops it, and says so."""
    bench.held("b")
    message = FakeMessage()

    with pytest.raises(Drop):
        bench.execute(message, when_running="skip")
    assert message.deferred == []
    assert bench.events == [(Event.DEDUPLICATED, {"reason": "running"})]


def test_what_something_waits_for_is_never_skipped(bench: Bench) -> None:
    """A member of a flow waits, or is answered, whatever the options say."""
    bench.held("b")
    member = FakeMessage(flows=True)
    with pytest.raises(Drop):
        bench.execute(member, when_running="skip")
    assert member.deferred == [1_050]

    bench.clock.advance(31)
    bench.settled(State.DONE, "c")
    assert bench.execute(FakeMessage(flows=True, hop=1), when_done="skip") == "value"


def test_another_job_gets_the_result(bench: Bench) -> None:
    """Within the retention, without running; and its own message is not closed."""
    bench.settled(State.DONE, "b", keep_ms=2 * HORIZON_MS)
    message = FakeMessage()

    assert bench.execute(message) == "value"
    assert (message.runs, message.sent) == (0, ["value"])
    assert bench.events == [(Event.REPLAYED, {"state": "done", "same_job": False})]
    assert "close" not in bench.store.asked


def test_another_job_is_closed_if_the_key_is_forgotten_first(bench: Bench) -> None:
    """A copy of a job that was answered must not run when the retention ends within the horizon."""
    bench.settled(State.DONE, "b", keep_ms=5 * HORIZON_MS)
    bench.clock.advance(4.5 * HORIZON_MS / 1_000)
    bench.execute(FakeMessage(), retention=5 * HORIZON_MS / 1_000)
    assert bench.store.asked[-1] == "close"

    bench.clock.advance(0.6 * HORIZON_MS / 1_000)
    with pytest.raises(Drop):
        bench.execute(FakeMessage(), retention=5 * HORIZON_MS / 1_000)


def test_another_job_is_closed_by_what_the_record_says(bench: Bench) -> None:
    """Its retention is the one under which it was settled, whatever a deploy has declared since."""
    bench.settled(State.DONE, "b", keep_ms=2 * HORIZON_MS)

    bench.execute(FakeMessage(), retention=60)
    assert "close" not in bench.store.asked


def test_another_job_of_a_done_key_is_skipped_on_demand(bench: Bench) -> None:
    """when_done='skip' drops it, and says so."""
    bench.settled(State.DONE, "b")
    message = FakeMessage()

    with pytest.raises(Drop):
        bench.execute(message, when_done="skip")
    assert message.sent == []
    assert bench.events == [(Event.DEDUPLICATED, {"reason": "done"})]
    bench.clock.advance(61)
    with pytest.raises(Drop):
        bench.execute(FakeMessage(), when_done="skip")


def test_another_job_runs_after_a_failure(bench: Bench) -> None:
    """when_failed='release' is the default."""
    with pytest.raises(ValueError, match="no"):
        bench.execute(FakeMessage(raising(ValueError("no")), job="b"))

    assert bench.execute(FakeMessage()) == "value"


def test_another_job_fails_alike_on_demand(bench: Bench) -> None:
    """when_failed='remember' gives it the same error, without running."""
    with pytest.raises(ValueError, match="no"):
        bench.execute(FakeMessage(raising(ValueError("no")), job="b"), when_failed="remember")
    message = FakeMessage()

    with pytest.raises(ValueError, match="no"):
        bench.execute(message, when_failed="remember")
    assert message.runs == 0


def test_another_payload_under_one_key_is_refused(bench: Bench) -> None:
    """One key means one call."""
    bench.held("b", payload="x")

    with pytest.raises(IdempotencyKeyReused):
        bench.execute(FakeMessage(payload="y"))


def test_a_record_of_a_newer_release_is_waited_for(bench: Bench) -> None:
    """Even where another job would be skipped: nobody knows what the record says."""
    bench.held("b")
    bench.store._records[KEY].state = "?"
    message = FakeMessage()

    with pytest.raises(Drop):
        bench.execute(message, when_running="skip")
    assert message.deferred == [1_050]


# --- quarantine ---------------------------------------------------------------------------


def test_a_job_that_kills_is_quarantined_whole(bench: Bench) -> None:
    """Its message is kept, its errbacks hear of it, and it does not run."""
    for _ in range(2):
        bench.held("a")
        bench.clock.advance(31)
    message = FakeMessage(carries_errors=True)

    with pytest.raises(Quarantined):
        bench.execute(message, max_crashes=2)
    assert message.runs == 0
    assert isinstance(message.sent[0], Quarantined)
    assert list(bench.store.letters(SHELF.name)) == [("a", b"letter of a")]
    assert bench.events == [(Event.QUARANTINED, {"crashes": 2})]
    with pytest.raises(Drop):
        bench.execute(FakeMessage(), max_crashes=2)


def test_a_letter_that_cannot_be_kept_waits(bench: Bench) -> None:
    """A quarantine without its letter would lose the job: it is tried again later."""
    bench.held("a")
    bench.clock.advance(31)
    bench.store.down["bury"] = 1
    message = FakeMessage()

    with pytest.raises(Drop):
        bench.execute(message, max_crashes=1, when_store_down="run")
    assert (message.runs, message.deferred, message.sent) == (0, [1_000], [])


def test_a_process_that_exits_counts_as_a_death(bench: Bench) -> None:
    """SystemExit in the body gives the key back at once, and is counted."""
    with pytest.raises(Exiting):
        bench.execute(FakeMessage(raising(Exiting())))

    record = bench.store.peek(KEY)
    assert record is not None
    assert (record.state, len(record.suspects)) == (State.IDLE, 1)


# --- errors of the body -------------------------------------------------------------------


def test_a_failure_is_recorded_sent_and_raised(bench: Bench) -> None:
    """The task's own error leaves the guard after its errbacks were sent."""
    message = FakeMessage(raising(ValueError("no")), carries_errors=True)

    with pytest.raises(ValueError, match="no"):
        bench.execute(message)
    assert bench.store.asked == ["claim", "settle", "close"]
    assert [str(error) for error in message.sent] == ["no"]


def test_a_retry_keeps_the_key_until_its_time(bench: Bench) -> None:
    """The record waits for the retry, which may run at once; another job may not."""
    with pytest.raises(NotYet):
        bench.execute(FakeMessage(raising(NotYet())))
    assert bench.state == State.RETRYING

    other = FakeMessage(job="b")
    with pytest.raises(Drop):
        bench.execute(other)
    assert other.deferred == [1_050]
    assert bench.execute(FakeMessage(retries=1)) == "value"


def test_a_published_retry_is_the_outcome_whatever_the_body_returns(bench: Bench) -> None:
    """A body that swallows its own Retry has retried all the same."""
    message = FakeMessage(retried=True)

    with pytest.raises(NotYet):
        bench.execute(message)
    assert bench.state == State.RETRYING


def test_what_is_given_back_frees_the_key(bench: Bench) -> None:
    """Ignore and Reject are passed on, and the next copy may run."""
    with pytest.raises(GivenBack):
        bench.execute(FakeMessage(raising(GivenBack())))

    assert bench.state == State.IDLE
    assert bench.execute(FakeMessage()) == "value"


# --- the zombie's way out -----------------------------------------------------------------


def overtake(bench: Bench, *, job: str = "a", result: Any = "late") -> Callable[[Lease], Any]:
    """A body that loses its lease to *job* while it runs."""

    def body(_: Lease) -> Any:
        bench.clock.advance(31)
        bench.held(job)
        if isinstance(result, BaseException):
            raise result
        return result

    return body


@pytest.mark.parametrize("result", ["late", ValueError("late"), GivenBack("late")])
def test_what_a_zombie_says_is_not_recorded(bench: Bench, result: Any) -> None:
    """Whatever it returns or raises, it leaves a successor and no trace."""
    message = FakeMessage(overtake(bench, result=result), carries=True, carries_errors=True)

    with pytest.raises(Drop):
        bench.execute(message)
    assert bench.state == State.RUNNING
    assert (message.sent, len(message.deferred)) == ([], 1)
    assert Event.LEASE_LOST in bench.told


def test_a_zombie_of_a_closed_job_leaves_nothing(bench: Bench) -> None:
    """When the winner is through, the loser just goes."""

    def body(_: Lease) -> str:
        bench.clock.advance(31)
        bench.execute(FakeMessage(carries=True))
        return "late"

    message = FakeMessage(body, carries=True)
    with pytest.raises(Drop):
        bench.execute(message)
    assert (message.sent, message.deferred) == ([], [])
    assert bench.events[-1] == (Event.DEDUPLICATED, {"reason": "overtaken"})


def test_a_zombies_published_retry_is_its_successor(bench: Bench) -> None:
    """It leaves as a retry, with no second message."""
    message = FakeMessage(overtake(bench, result=NotYet()))

    with pytest.raises(NotYet):
        bench.execute(message)
    assert message.deferred == []


def test_a_zombie_that_exits_still_exits(bench: Bench) -> None:
    """The end of the process is not swallowed."""
    with pytest.raises(Exiting):
        bench.execute(FakeMessage(overtake(bench, result=Exiting())))


def test_a_body_that_stops_on_a_lost_lease_leaves_a_successor(bench: Bench) -> None:
    """LeaseLost of the own lease is no failure of the job."""

    def body(lease: Lease) -> None:
        raise LeaseLost(lease.key, 30, 31)

    message = FakeMessage(body)
    with pytest.raises(Drop):
        bench.execute(message)
    assert (bench.state, len(message.deferred)) == (State.IDLE, 1)


def test_another_keys_lost_lease_is_an_error_like_any_other(bench: Bench) -> None:
    """A body that uses `once` inside and loses that lease has failed."""
    with pytest.raises(LeaseLost):
        bench.execute(FakeMessage(raising(LeaseLost("another", 30, 31))))

    assert bench.state == State.FAILED


def test_a_zombie_without_a_queue_says_so(bench: Bench) -> None:
    """In eager mode there is nothing to leave the job to."""
    with pytest.raises(LeaseLost):
        bench.execute(FakeMessage(overtake(bench), can_wait=False))


# --- without the store --------------------------------------------------------------------


def test_without_a_store_nothing_runs(bench: Bench) -> None:
    """when_store_down='retry' waits longer with each hop, at most a minute."""
    bench.store.down["claim"] = 9
    waits = []
    for hop in (0, 1, 9):
        message = FakeMessage(hop=hop)
        with pytest.raises(Drop):
            bench.execute(message)
        assert message.runs == 0
        waits += message.deferred

    assert waits == [1_000, 2_000, 60_000]
    assert bench.told == [Event.DEFERRED] * 3


def test_without_a_store_it_may_run_unguarded(bench: Bench) -> None:
    """when_store_down='run' runs with a local lease, and says so."""
    bench.store.down["claim"] = 1
    leases: list[Lease] = []

    bench.execute(FakeMessage(leases.append), when_store_down="run")

    assert bench.told == [Event.UNGUARDED]
    assert bench.store.asked == ["claim"]
    leases[0].check()


def test_a_successor_names_the_claims_that_were_never_answered(bench: Bench) -> None:
    """Its own, and those that it was told of, so that none of them counts as a death."""
    bench.store.down["claim"] = 1
    message = FakeMessage(abandoned=("12",))
    with pytest.raises(Drop):
        bench.execute(message)

    assert message.names[0] == "12"
    assert len(message.names) == 2
    assert bench.execute(FakeMessage(hop=1, abandoned=message.names)) == "value"


def test_a_successor_names_an_execution_that_was_not_recorded(bench: Bench) -> None:
    """The process lives: however often its outcome finds no store, that is no death."""
    names: tuple[str, ...] = ()
    for hop in range(3):
        bench.store.down["settle"] = float("inf")
        message = FakeMessage(hop=hop, abandoned=names)
        with pytest.raises(Drop):
            bench.execute(message, max_crashes=1)
        names = message.names
    bench.store.down.clear()

    assert bench.execute(FakeMessage(hop=3, abandoned=names), max_crashes=1) == "value"


def test_a_successor_that_only_waits_names_nobody(bench: Bench) -> None:
    """What was asked before an answer came is settled by the answer."""
    bench.held("a")
    message = FakeMessage(abandoned=("12",))
    with pytest.raises(Drop):
        bench.execute(message)
    assert message.names == ()


def test_without_a_store_and_a_queue_the_outage_is_raised(bench: Bench) -> None:
    """Eager mode cannot wait."""
    bench.store.down["claim"] = 1

    with pytest.raises(StoreUnavailable):
        bench.execute(FakeMessage(can_wait=False))


def test_a_settle_is_tried_again(bench: Bench) -> None:
    """A short outage at the end of a run costs a pause, not a second run."""
    bench.store.down["settle"] = 3

    assert bench.execute(FakeMessage()) == "value"
    assert bench.slept == [0.1, 0.2, 0.4]
    assert bench.state == State.DONE


@pytest.mark.parametrize("result", ["value", ValueError("no")])
def test_a_settle_that_finds_no_store_leaves_a_successor(bench: Bench, result: Any) -> None:
    """After one lease of trying the job goes to a successor, never to Celery as an outcome."""
    bench.store.down["settle"] = 10**9
    body = raising(result) if isinstance(result, Exception) else lambda _: result
    message = FakeMessage(body, carries=True, carries_errors=True)

    with pytest.raises(Drop):
        bench.execute(message)
    assert 20 < sum(bench.slept) <= 30
    assert (message.sent, message.deferred) == ([], [1_000])


def test_a_published_retry_needs_no_settle(bench: Bench) -> None:
    """The retry is in the broker, so an outage leaves nothing to do."""
    bench.store.down["settle"] = 10**9
    message = FakeMessage(raising(NotYet()))

    with pytest.raises(NotYet):
        bench.execute(message)
    assert message.deferred == []


@pytest.mark.parametrize("operation", ["advance", "close"])
def test_notes_that_cannot_be_made_harm_nothing(bench: Bench, operation: str) -> None:
    """An unnoted successor or close costs at most one more answer."""
    bench.store.down[operation] = 1
    if operation == "advance":
        bench.held("a")
        with pytest.raises(Drop):
            bench.execute(FakeMessage())
    else:
        assert bench.execute(FakeMessage(carries=True)) == "value"
    assert bench.store.asked[-1] == operation


# --- publishing that fails ----------------------------------------------------------------


def test_what_hangs_on_a_message_is_sent_again_in_place(bench: Bench) -> None:
    """A short failure of the broker costs a pause."""
    message = FakeMessage(carries=True, broken={"send": (3, OSError("down"))})

    assert bench.execute(message) == "value"
    assert (bench.slept, message.sent) == ([0.5, 1.0, 2.0], ["value"])


def test_what_cannot_be_sent_gives_the_delivery_back(bench: Bench) -> None:
    """The job stays done and unclosed, so that the next copy sends."""
    message = FakeMessage(carries=True, broken={"send": (99, OSError("down"))})

    with pytest.raises(Requeue):
        bench.execute(message)
    assert bench.state == State.DONE
    assert "close" not in bench.store.asked
    copy = FakeMessage(carries=True)
    assert bench.execute(copy) == "value"
    assert (copy.runs, copy.sent) == (0, ["value"])


def test_an_outage_of_the_broker_is_no_death(bench: Bench) -> None:
    """However often a replay cannot be sent, the job is not quarantined for it."""
    for _ in range(5):
        message = FakeMessage(carries=True, broken={"send": (99, OSError("down"))})
        with pytest.raises(Requeue):
            bench.execute(message, max_crashes=1)

    assert bench.execute(FakeMessage(carries=True), max_crashes=1) == "value"


def test_a_replay_that_cannot_be_spared_is_given_back_all_the_same(bench: Bench) -> None:
    """Without the store it counts as a death, and nothing else goes wrong."""
    bench.settled(State.DONE)
    bench.store.down["spare"] = 1

    with pytest.raises(Requeue):
        bench.execute(FakeMessage(carries=True, broken={"send": (99, OSError("down"))}))
    assert bench.store.asked[-1] == "spare"


def test_errbacks_that_cannot_be_sent_give_the_delivery_back(bench: Bench) -> None:
    """The same for a failure."""
    broken = {"send_error": (99, OSError("down"))}
    message = FakeMessage(raising(ValueError("no")), carries_errors=True, broken=broken)

    with pytest.raises(Requeue):
        bench.execute(message)
    assert bench.state == State.FAILED


def test_what_can_never_be_sent_is_left_to_celery(bench: Bench) -> None:
    """A result without a serialized form is not tried again for ever."""
    message = FakeMessage(carries=True, broken={"send": (99, Unsendable("no form"))})

    assert bench.execute(message) == "value"
    assert (bench.slept, bench.store.asked[-1]) == ([], "close")


def test_a_successor_that_cannot_be_published_gives_the_delivery_back(bench: Bench) -> None:
    """After a pause, and nothing is noted: the record must not name a message that is not."""
    bench.held("a")
    message = FakeMessage(broken={"defer": (1, OSError("down"))})

    with pytest.raises(Requeue):
        bench.execute(message)
    assert (bench.slept, bench.store.asked) == ([1.0], ["claim"])


# --- without a queue ----------------------------------------------------------------------


def test_without_a_queue_a_running_key_is_an_error(bench: Bench) -> None:
    """Eager mode says how long the lease still lasts."""
    bench.held("b")

    with pytest.raises(AlreadyRunning) as caught:
        bench.execute(FakeMessage(can_wait=False))
    assert caught.value.remaining == 30


def test_a_lease_that_cannot_be_renewed_gives_the_delivery_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine out of threads neither fails the job nor runs it without renewal."""

    def refuse(_: Lease) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(guard.keeper, "hold", refuse)
    message = FakeMessage()

    with pytest.raises(Requeue):
        bench.execute(message)

    assert (message.runs, bench.state) == (0, State.IDLE)


def test_a_result_that_cannot_be_read_is_not_kept(bench: Bench) -> None:
    """After a deploy with another serializer a replay says what is the matter, and closes."""
    bench.settled(State.DONE)

    class Unreadable(FakeMessage):
        def load(self, data: bytes) -> Any:
            raise ValueError(data)

    message = Unreadable()
    with pytest.raises(ResultNotKept):
        bench.execute(message)
    assert isinstance(message.sent[0], ResultNotKept)


# --- calls of a unique task ---------------------------------------------------------------


def reserved(bench: Bench, job: str, **terms: Any) -> int:
    """Let *job* be published; returns its turn."""
    ask = Reservation(job, 60_000, latest=True, **terms)
    [answer] = bench.store.reserve([(KEY, ask)])
    assert isinstance(answer, Reserved)
    bench.store.confirm([(KEY, Confirmation(job, 60_000))])
    return answer.turn


def test_a_replaced_message_is_dropped_as_revoked(bench: Bench) -> None:
    """A later call took its place: it does not run, and whoever waits for it hears of it."""
    older = FakeMessage(job="a", turn=reserved(bench, "a", payload="x"))
    newer = FakeMessage(job="b", turn=reserved(bench, "b", payload="y"))

    with pytest.raises(Drop):
        bench.execute(older)

    assert older.revoked == ["replaced"]
    assert bench.events == [(Event.DEDUPLICATED, {"reason": "replaced"})]
    assert bench.execute(newer) == "value"


@pytest.mark.parametrize(("longest_ms", "wait_ms"), [(None, 9_000), (2_000, 2_000)])
def test_a_message_that_comes_early_waits_until_it_is_due(
    bench: Bench, longest_ms: int | None, wait_ms: int
) -> None:
    """Later calls put it off: its successor comes just then, or as late as the broker bears."""
    turn = reserved(bench, "a", delay_ms=10_000)
    bench.clock.advance(1)
    message = FakeMessage(turn=turn, longest_wait_ms=longest_ms)

    with pytest.raises(Drop):
        bench.execute(message)

    assert message.deferred == [wait_ms]
    assert message.runs == 0


def test_a_job_that_ended_after_the_call_answers_it(bench: Bench) -> None:
    """An equal job that was done only after the call is its run, also without retention."""
    called_us = bench.clock.now_us()
    bench.clock.advance(1)
    bench.settled(State.DONE, "b", keep_ms=0)
    message = FakeMessage(turn=-called_us)

    assert bench.execute(message, retention=0) == "value"
    assert message.runs == 0


class TestOfEachExecution:
    """What is told of every execution, if anybody listens."""

    def test_nobody_listens(self, bench: Bench) -> None:
        """Nothing is told."""
        bench.execute(FakeMessage())

        assert bench.events == []

    def test_a_job_that_is_done(self, bench: Bench) -> None:
        """Its claim and its outcome, with how long each took, and the body."""
        bench.listens = True
        bench.execute(FakeMessage(lambda _: bench.clock.advance(7)))

        [(claimed, first), (settled, second)] = bench.events
        assert (claimed, settled) == (Event.CLAIMED, Event.SETTLED)
        assert first.pop("delivery") == second.pop("delivery")
        assert first.pop("token") > 0
        assert first == {"answer": "granted", "seconds": 0.0, "attempt": 1, "crashes": 0}
        assert second == {"state": "done", "seconds": 0.0, "ran": pytest.approx(7)}

    @pytest.mark.parametrize(
        ("error", "state"),
        [(ValueError(), "failed"), (NotYet(), "retrying"), (GivenBack(), "released")],
    )
    def test_other_ends(self, bench: Bench, error: Exception, state: str) -> None:
        """Each has its name."""
        bench.listens = True

        def body(_: Lease) -> None:
            raise error

        with pytest.raises(type(error)):
            bench.execute(FakeMessage(body))
        assert bench.events[-1][1]["state"] == state

    def test_another_answer(self, bench: Bench) -> None:
        """A claim that is not granted is told as well, and nothing is settled."""
        bench.listens = True
        bench.held()
        with pytest.raises(Drop):
            bench.execute(FakeMessage())

        assert [details["answer"] for event, details in bench.events if event == Event.CLAIMED] == [
            "busy"
        ]
        assert Event.SETTLED not in bench.told

    def test_without_the_store(self, bench: Bench) -> None:
        """A run without a guard is a claim without an answer."""
        bench.listens, bench.store.down = True, {"claim": 1}
        bench.execute(FakeMessage(), when_store_down="run")

        assert bench.events[-1][1]["answer"] == "unguarded"


def test_a_death_is_noted_by_who_takes_over(bench: Bench) -> None:
    """A letter that comes later knows when each execution began that died, and where."""
    token = bench.held()
    bench.clock.advance(LEASE_MS / 1_000 + 1)
    bench.execute(FakeMessage())

    [noted] = SHELF.past(bench.store, "a")
    assert noted == {"outcome": "died", "delivery": "elsewhere-0", "began": token / 1_000_000}


def test_the_last_death_is_in_the_letter(bench: Bench) -> None:
    """Of an execution that nobody took over the record knows as much."""
    bench.held()
    bench.clock.advance(LEASE_MS / 1_000 + 1)
    message = FakeMessage()
    with pytest.raises(Quarantined):
        bench.execute(message, max_crashes=1)

    assert [each["delivery"] for each in message.past] == ["elsewhere-0"]
