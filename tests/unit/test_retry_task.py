"""What `retry_task` promises without a server: what is published, what ends it, what is refused."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import Celery, Task, _state, shared_task
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.utils import uuid
from kombu import Queue
from pydantic import BaseModel
from tenacity import retry_if_result, stop_after_delay, wait_fixed, wait_none

from reliable_tasks import (
    CircuitBreaker,
    ConfigurationError,
    GaveUp,
    IdempotentTask,
    LeaseLost,
    RetriesExhausted,
    RetryBudget,
    UniqueTask,
    retry_task,
    signals,
)
from reliable_tasks.core.keys import notes_key
from reliable_tasks.core.limits import Passage
from reliable_tasks.deadletter.letters import Letter
from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.retry import ending, turn
from reliable_tasks.retry.attempts import NAME, Attempts
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing import eventually, retries
from reliable_tasks.worker import check

NOW = 1_790_000_000.0
BASES = pytest.mark.parametrize("base", [Task, IdempotentTask, UniqueTask])


class Down(Exception):
    """A dependency does not answer."""


@dataclass
class Broker:
    """A queue and one worker: what is published is delivered when the test says so."""

    app: Celery
    now: float = NOW
    messages: list[dict[str, Any]] = field(default_factory=list)
    refusal: Exception | None = None

    def publish(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Stand in for `Celery.send_task`."""
        if self.refusal is not None:
            raise self.refusal
        options["task_id"] = options.get("task_id") or uuid()
        self.messages.append({"name": name, "args": args, "kwargs": kwargs, **options})
        return self.app.AsyncResult(options["task_id"])

    def deliver(self, message: dict[str, Any]) -> Any:
        """Run a message as a worker's pool does; return Celery's word on it."""
        task = self.app.tasks[message["name"]]
        trace = build_tracer(task.name, task, app=self.app, hostname="unit@here")
        request = {
            "id": message["task_id"],
            "retries": message.get("retries", 0),
            "headers": message.get("headers"),
            "chain": message.get("chain"),
            "group": message.get("group_id"),
            "callbacks": message.get("link"),
            "expires": message.get("expires"),
            "shadow": message.get("shadow"),
            "ignore_result": message.get("ignore_result"),
            "argsrepr": message.get("argsrepr"),
            "timelimit": [message.get("time_limit"), message.get("soft_time_limit")],
            "delivery_info": {"exchange": "", "routing_key": "slow", "priority": 7},
        }
        args, kwargs = message["args"] or (), message["kwargs"] or {}
        return trace(message["task_id"], args, kwargs, request).info

    def run(self, task: Any, *args: Any, **options: Any) -> Any:
        """Publish one job, and deliver its messages until none is left, each when it is due."""
        task.apply_async(args, **options)
        info = None
        while self.messages:
            message = self.messages.pop(0)
            self.now += message.get("countdown") or 0
            info = self.deliver(message)
        return info


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose records are in memory."""
    app = Celery("unit", broker="memory://", set_as_current=False)
    app.conf.reliable_tasks_store = MemoryStore()
    yield app
    app.close()


@pytest.fixture
def broker(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """The queue of `app`, with a clock that only the test moves."""
    broker = Broker(app)
    monkeypatch.setattr(app, "send_task", broker.publish)
    monkeypatch.setattr(turn, "time", lambda: broker.now)
    return broker


@pytest.fixture
def told() -> Iterator[list[dict[str, Any]]]:
    """What `task_retrying` and `task_dead_lettered` say."""
    heard: list[dict[str, Any]] = []

    def hear(sender: Any, **fields: Any) -> None:
        heard.append({name: fields[name] for name in fields if name not in {"signal", "task_id"}})

    for each in (signals.task_retrying, signals.task_dead_lettered):
        each.connect(hear, weak=False)
    yield heard
    for each in (signals.task_retrying, signals.task_dead_lettered):
        each.disconnect(hear)


def declare(
    app: Celery, outcomes: list[Any], *, base: type = Task, options: Any = (), **given: Any
) -> Any:
    """Declare a task whose attempts end as *outcomes* say; the last one repeats."""
    runs: list[Any] = []

    @app.task(base=base, bind=True, shared=False, name="unit.work", **dict(options))
    @retry_task(**{"on": Down, "wait": wait_fixed(2), **given})
    def work(self: Any, *args: Any) -> Any:
        runs.append(self.lease.attempt if hasattr(self, "lease") else None)
        outcome = outcomes[min(len(runs), len(outcomes)) - 1]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    work.runs = runs
    return work


async def never_awaited(_: GaveUp) -> None:
    """What a hook that must be awaited would do."""


def notes_of(error: Any) -> list[str]:
    return [note.removeprefix("retry_task: ") for note in getattr(error, "__notes__", [])]


class TestThroughTheQueue:
    """An attempt that failed is followed by the same message, later."""

    @BASES
    def test_until_it_succeeds(self, app: Celery, broker: Broker, base: type) -> None:
        """The first failures are forgotten: the job ends with the value, after its waits."""
        task = declare(app, [Down(), Down(), "done"], base=base)

        info = broker.run(task, 1)

        assert info is None  # Celery has nothing to say of a success
        assert task.runs == ([None] * 3 if base is Task else [1, 2, 3])
        assert broker.now == NOW + 4

    @BASES
    def test_the_message_stays_itself(self, app: Celery, broker: Broker, base: type) -> None:
        """Id, headers, limits, chain, callbacks, priority and queue go along."""
        task = declare(app, [Down()], base=base)
        options = {
            "task_id": "job", "time_limit": 20, "soft_time_limit": 10, "chain": [task.si(9)],
            "group_id": "group", "shadow": "shade", "expires": "2999-01-01T00:00:00+00:00",
            "ignore_result": True, "argsrepr": "(a secret)",
        }  # fmt: skip
        task.apply_async((1, 2), link=[task.si(3)], headers={"tenant": "a"}, **options)

        info = broker.deliver(broker.messages.pop())

        [again] = broker.messages
        assert info.state == "RETRY"
        assert {name: again[name] for name in options} == options
        assert (again["args"], again["queue"], again["priority"]) == ((1, 2), "slow", 7)
        assert [link["args"] for link in again["link"]] == [(3,)]
        assert (again["retries"], again["countdown"]) == (1, 2)
        assert again["headers"]["tenant"] == "a"

    @BASES
    def test_the_last_error_is_the_tasks(self, app: Celery, broker: Broker, base: type) -> None:
        """When all attempts are used the error is raised as it is, with a note for each."""
        last = Down("the third")
        task = declare(app, [Down("1"), Down("2"), last], base=base, attempts=3)

        info = broker.run(task)

        assert (info.state, info.retval) == ("FAILURE", last)
        assert len(task.runs) == 3
        assert [note.split(" ended after ")[0] for note in notes_of(last)[:3]] == [
            "attempt 1", "attempt 2", "attempt 3"
        ]  # fmt: skip
        assert len(notes_of(last)) == 4

    def test_an_error_that_jobs_share(self, app: Celery, broker: Broker) -> None:
        """One that is made once, and raised by every job, tells of the last of them."""
        shared = Down("made once")
        shared.add_note("mine")
        task = declare(app, [shared], attempts=2)

        for _ in range(3):
            broker.run(task)

        assert notes_of(shared)[0] == "mine"
        assert len(notes_of(shared)) == 4

    def test_one_attempt(self, app: Celery, broker: Broker) -> None:
        """With attempts=1 nothing is ever tried again."""
        task = declare(app, [Down()], attempts=1)

        assert broker.run(task).state == "FAILURE"
        assert len(task.runs) == 1

    def test_another_error(self, app: Celery, broker: Broker, told: list[Any]) -> None:
        """An error that `on` does not name fails the task at once, and nothing is said of it."""
        task = declare(app, [KeyError("x")])

        info = broker.run(task)

        assert (info.state, notes_of(info.retval), told) == ("FAILURE", [], [])

    def test_another_error_later(self, app: Celery, broker: Broker) -> None:
        """An error that ends a job after other attempts tells of them."""
        error = KeyError("x")
        task = declare(app, [Down(), error])

        broker.run(task)

        assert len(notes_of(error)) == 3

    @pytest.mark.parametrize(
        "error", [Ignore(), Reject("no", requeue=False), SoftTimeLimitExceeded(), Retry()]
    )
    def test_celerys_own_words(self, app: Celery, broker: Broker, error: Exception) -> None:
        """What Celery means by an exception holds, even with on=Exception."""
        task = declare(app, [error], on=Exception)

        broker.run(task)

        assert len(task.runs) == 1

    def test_a_lost_lease(self, app: Celery, broker: Broker) -> None:
        """Who took over goes on with the job; this execution has nothing to retry."""
        task = declare(app, [LeaseLost("another", 1, 2)], base=IdempotentTask, on=Exception)

        assert broker.run(task).state == "FAILURE"
        assert len(task.runs) == 1

    @BASES
    def test_results(self, app: Celery, broker: Broker, base: type) -> None:
        """A result that `retry` names is tried again, the next one is the task's."""
        again = retry_if_result(lambda value: value is None)
        task = declare(app, [None, Down(), "done"], base=base, retry=again)

        assert broker.run(task) is None
        assert len(task.runs) == 3

    def test_results_that_never_suit(self, app: Celery, broker: Broker) -> None:
        """Without a further attempt an unwanted result fails the task."""
        again = retry_if_result(lambda value: value is None)
        task = declare(app, [None], on=None, retry=again, attempts=2)

        error = broker.run(task).retval

        assert isinstance(error, RetriesExhausted)
        assert (error.attempts, error.elapsed) == (2, 2.0)

    def test_the_servers_word(self, app: Celery, broker: Broker) -> None:
        """What an error says of the wait goes before what the policy would wait."""
        error = Down()
        error.retry_after = 7  # type: ignore[attr-defined]
        task = declare(app, [error, "done"])

        broker.run(task)

        assert broker.now == NOW + 7

    def test_total_time(self, app: Celery, broker: Broker) -> None:
        """The time of the first attempt travels along, so that a total of 5 s means 5 s."""
        task = declare(app, [Down()], attempts=100, stop=stop_after_delay(5))

        broker.run(task)

        assert len(task.runs) == 4
        assert broker.now == NOW + 6

    def test_no_state_of_another_message(self, app: Celery, broker: Broker) -> None:
        """Headers that a user forwards from another job count no attempts of this one."""
        task = declare(app, [Down()], attempts=2)
        other = Attempts(attempt=2, first_at=NOW, due_at=NOW + 99)

        broker.run(task, headers={NAME: other.encode("another")})

        assert len(task.runs) == 2

    def test_a_retry_of_its_own(self, app: Celery, broker: Broker) -> None:
        """A body that publishes its retry itself is not retried twice."""

        @app.task(base=IdempotentTask, bind=True, shared=False)
        @retry_task(on=Exception)
        def work(self: Any) -> None:
            self.retry(countdown=3, throw=False)
            raise Down

        work.delay()
        info = broker.deliver(broker.messages.pop())

        assert info.state == "RETRY"
        assert len(broker.messages) == 1

    def test_taken_over(self, app: Celery, broker: Broker) -> None:
        """An execution that has lost its lease neither retries the job nor gives it up."""
        heard: list[GaveUp] = []

        @app.task(base=IdempotentTask, bind=True, shared=False)
        @retry_task(on=Down, attempts=1, give_up=heard.append)
        def work(self: Any) -> None:
            self.lease.lost = True
            raise Down

        broker.run(work)

        assert heard == []

    def test_quorum_queues(self, app: Celery, broker: Broker) -> None:
        """RabbitMQ refuses a countdown below a second, so there is none."""
        quorum = {"x-queue-type": "quorum"}
        app.conf.task_queues = [Queue("slow", queue_arguments=quorum)]
        task = declare(app, [Down()], wait=wait_fixed(0.2))
        task.delay()

        broker.deliver(broker.messages.pop())

        assert broker.messages[0]["countdown"] == 1


class TestLongWaits:
    """A wait that is longer than the broker holds a message goes in hops."""

    @BASES
    def test_hops(self, app: Celery, broker: Broker, base: type) -> None:
        """Each hop is short, none uses an attempt, and the body runs when it is due."""
        app.conf.broker_transport_options = {"visibility_timeout": 10}
        task = declare(app, [Down(), "done"], base=base, wait=wait_fixed(12), attempts=2)
        task.delay()
        countdowns = []
        while broker.messages:
            message = broker.messages.pop()
            countdowns.append(message.get("countdown"))
            broker.now += message.get("countdown") or 0
            info = broker.deliver(message)

        assert countdowns == [None, 5, 5, 2]
        assert info is None
        assert task.runs == ([None] * 2 if base is Task else [1, 2])

    def test_a_copy_that_comes_early(
        self, app: Celery, broker: Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A message that is delivered before its time is not run, not lost, and not passed over."""
        caplog.set_level(logging.INFO, logger="reliable_tasks")
        task = declare(app, [Down(), "done"], wait=wait_fixed(12))
        task.delay()
        broker.deliver(broker.messages.pop())
        broker.now += 4

        info = broker.deliver(broker.messages.pop())

        assert (info.state, len(task.runs)) == ("RETRY", 1)
        assert broker.messages[0]["countdown"] == 8
        assert "is not due yet: wait=8.0" in caplog.text


class TestNotPublished:
    """A retry that the broker does not take loses no job silently."""

    @pytest.fixture(autouse=True)
    def no_pause(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody waits before a delivery is given back."""
        monkeypatch.setattr("reliable_tasks.publish.sleep", lambda _: None)

    @pytest.mark.parametrize(
        ("base", "options"), [(Task, {"acks_late": True}), (IdempotentTask, {})]
    )
    def test_acknowledged_late(
        self, app: Celery, broker: Broker, base: type, options: dict[str, Any]
    ) -> None:
        """The delivery goes back to the broker, and its next copy tries again."""
        task = declare(app, [Down(), "done"], base=base, options=options)
        task.delay()
        message = broker.messages.pop()
        broker.refusal = ConnectionError("broker")

        info = broker.deliver(message)

        assert (info.state, info.retval.requeue) == ("REJECTED", True)
        broker.refusal = None
        assert broker.deliver(message) is None

    @pytest.mark.parametrize(
        ("base", "refusal"),
        [(Task, ConnectionError("broker")), (IdempotentTask, TypeError("no JSON"))],
        ids=["acknowledged early", "hopeless"],
    )
    def test_for_good(
        self, app: Celery, broker: Broker, told: list[Any], base: type, refusal: Exception
    ) -> None:
        """The job is given up with its own error, which says what became of the retry."""
        error, heard = Down(), list[GaveUp]()
        task = declare(app, [error], base=base, give_up=heard.append, dead_letter=True)
        task.apply_async(task_id="job")
        broker.refusal = refusal

        info = broker.deliver(broker.messages.pop())

        assert (info.state, info.retval, error.__cause__) == ("FAILURE", error, refusal)
        assert "could not be published" in notes_of(error)[-1]
        assert [(job.error, job.attempts, job.reason) for job in heard] == [
            (error, 1, "unpublished")
        ]
        assert [job for job, _ in app.conf.reliable_tasks_store.letters("rt1::{dead-letters}")] == [
            "job"
        ]
        assert [each["reason"] for each in told] == ["unpublished"] * 2

    def test_a_result_for_good(self, app: Celery, broker: Broker) -> None:
        """A job without an error of its own fails with the one that says so."""
        task = declare(app, [None], on=None, retry=retry_if_result(lambda value: value is None))
        task.delay()
        broker.refusal = ConnectionError("broker")

        info = broker.deliver(broker.messages.pop())

        assert isinstance(info.retval, RetriesExhausted)
        assert info.retval.__cause__ is broker.refusal

    def test_next_hop(self, app: Celery, broker: Broker) -> None:
        """A long wait that cannot go on fails the job with the reason, for there is no other."""
        heard = list[GaveUp]()
        task = declare(app, ["done"], give_up=heard.append)
        task.apply_async(task_id="job", headers={NAME: Attempts(
            attempt=2, first_at=NOW, due_at=NOW + 60
        ).encode("job")})  # fmt: skip
        broker.refusal = ConnectionError("broker")

        info = broker.deliver(broker.messages.pop())

        assert (info.state, info.retval, task.runs) == ("FAILURE", broker.refusal, [])
        assert [(job.error, job.attempts) for job in heard] == [(broker.refusal, 1)]


class TestSoftTimeLimit:
    """A soft time limit ends a body, never the publishing of the next attempt."""

    @pytest.fixture(autouse=True)
    def soft_limit_handler(self) -> Iterator[None]:
        """Do what billiard's pool does in a child: SIGUSR1 raises SoftTimeLimitExceeded."""

        def handler(*_: object) -> None:
            raise SoftTimeLimitExceeded

        before = signal.signal(signal.SIGUSR1, handler)
        yield
        assert signal.signal(signal.SIGUSR1, before) is handler

    @pytest.mark.parametrize(
        ("base", "options"), [(Task, {"acks_late": True}), (Task, {}), (IdempotentTask, {})]
    )
    def test_while_it_publishes(
        self,
        app: Celery,
        broker: Broker,
        monkeypatch: pytest.MonkeyPatch,
        base: type,
        options: dict[str, Any],
    ) -> None:
        """The job is in the broker once, and nowhere else."""

        def publish_slowly(*args: Any, **message: Any) -> Any:
            published = broker.publish(*args, **message)
            os.kill(os.getpid(), signal.SIGUSR1)
            return published

        task = declare(app, [Down(), "done"], base=base, options={"soft_time_limit": 9, **options})
        task.apply_async(soft_time_limit=9)
        monkeypatch.setattr(app, "send_task", publish_slowly)

        info = broker.deliver(broker.messages.pop())
        broker.now += 2

        assert (info.state, len(broker.messages)) == ("RETRY", 1)
        assert broker.deliver(broker.messages.pop()) is None

    @pytest.mark.parametrize(
        ("slow", "runs", "ending"), [("admit", 0, SoftTimeLimitExceeded), ("report", 1, None)]
    )
    def test_while_a_breaker_is_asked(
        self,
        app: Celery,
        broker: Broker,
        monkeypatch: pytest.MonkeyPatch,
        slow: str,
        runs: int,
        ending: Any,
    ) -> None:
        """Before the body it ends the attempt; after it, the attempt has ended."""
        store = app.conf.reliable_tasks_store
        monkeypatch.setattr(store, "admit", lambda *_, **__: Passage(is_probe=True))
        monkeypatch.setattr(store, "report", lambda *_, **__: 0)
        answer = getattr(store, slow)

        def ask_slowly(*args: Any, **given: Any) -> Any:
            os.kill(os.getpid(), signal.SIGUSR1)
            return answer(*args, **given)

        monkeypatch.setattr(store, slow, ask_slowly)
        breaker = CircuitBreaker("slow")
        task = declare(app, ["done"], options={"soft_time_limit": 9}, breaker=breaker)

        info = broker.run(task)

        assert len(task.runs) == runs
        assert (info if ending is None else type(info.retval)) is ending


class TestWhichCalls:
    """Only the delivery of a task is tried again."""

    def test_direct_call(self, app: Celery) -> None:
        """A direct call of the task is one plain call."""
        task = declare(app, [Down()])

        with pytest.raises(Down):
            task()
        assert len(task.runs) == 1

    def test_function_of_another_task(self, app: Celery, broker: Broker) -> None:
        """The bare function, called in another task's body, is a plain call."""

        @retry_task(on=Down)
        def ask() -> None:
            raise Down

        @app.task(shared=False)
        def work() -> None:
            ask()

        assert broker.run(work).state == "FAILURE"

    def test_call_of_itself(self, app: Celery, broker: Broker) -> None:
        """A body that calls its own function is one attempt, and fails once."""
        runs = []

        @app.task(bind=True, shared=False)
        @retry_task(on=Down, attempts=2, wait=wait_none())
        def work(self: Any, depth: int) -> None:
            runs.append(depth)
            if depth:
                self.run(depth - 1)
            raise Down

        broker.run(work, 1)

        assert runs == [1, 0, 1, 0]

    def test_class_based(self, app: Celery, broker: Broker) -> None:
        """A `run` of a class is tried again, also where a subclass calls it."""
        runs = []

        class Work(app.Task):
            name = "unit.class"

            @retry_task(on=Down, attempts=2, wait=wait_none())
            def run(self) -> None:
                runs.append(type(self).__name__)
                raise Down

        class More(Work):
            name = "unit.subclass"

            def run(self) -> None:
                super().run()

        for cls in (Work, More):
            broker.run(app.register_task(cls()))

        assert runs == ["Work", "Work", "More", "More"]

    def test_shared(self, app: Celery, broker: Broker) -> None:
        """A shared task is tried again in whichever app it runs."""

        @shared_task(name="unit.shared")
        @retry_task(on=Down, attempts=2, wait=wait_none())
        def work() -> None:
            runs.append(work.app)
            raise Down

        runs: list[Any] = []
        app.set_current()  # as in a worker: `work` is the task of the current app
        broker.run(app.tasks["unit.shared"])

        assert runs == [app, app]

    def test_pydantic(self, app: Celery, broker: Broker) -> None:
        """The body gets models on every attempt; the message keeps what it came with."""

        class Order(BaseModel):
            number: int

        runs = []

        def work(order: Any) -> None:
            runs.append(order.number)
            raise Down

        work.__annotations__ = {"order": Order}  # Celery 5.5 reads no annotations that are texts
        decorate = retry_task(on=Down, attempts=2, wait=wait_none())
        broker.run(app.task(pydantic=True, shared=False)(decorate(work)), {"number": 4})

        assert runs == [4, 4]

    def test_signature(self, app: Celery, broker: Broker) -> None:
        """A call with wrong arguments is refused by the producer, as without the decorator."""

        @app.task(shared=False)
        @retry_task(on=Down)
        def work(order: int, *, label: str = "") -> None:
            """Do it."""

        with pytest.raises(TypeError):
            work.delay(1, 2, 3)
        work.delay(1, label="x")
        assert work.__doc__ == "Do it."


class TestEager:
    """In eager mode and in `.apply()` the attempts follow each other at once."""

    @BASES
    @pytest.mark.parametrize("propagates", [False, True])
    def test_attempts(self, app: Celery, base: type, propagates: bool) -> None:
        """They are as many as in a worker, and nobody sleeps."""
        app.conf.task_always_eager = True
        app.conf.task_eager_propagates = propagates
        task = declare(app, [Down(), Down(), "done"], base=base, wait=wait_fixed(900))

        assert task.delay().get() == "done"
        assert task.runs == ([None] * 3 if base is Task else [1, 2, 3])

    def test_total_time(self, app: Celery) -> None:
        """The waits that nobody sleeps count for `stop`, as they would in a worker."""
        task = declare(app, [Down()], attempts=100, stop=stop_after_delay(5))

        assert task.apply().state == "FAILURE"
        assert len(task.runs) == 4

    def test_fails(self, app: Celery, told: list[Any]) -> None:
        """The last error is the task's, and each attempt was told of."""
        task = declare(app, [Down()], attempts=2)

        result = task.apply()

        assert isinstance(result.result, Down)
        kind = f"{__name__}.Down"
        assert told == [
            {"attempt": 1, "wait": 2.0, "error": kind, "reason": None},
            {"attempt": 2, "wait": None, "error": kind, "reason": "attempts"},
        ]


class TestSwitch:
    """Tests turn waits off and set attempts."""

    def test_in_eager_mode(self, app: Celery) -> None:
        """The block's number of attempts holds inside it, the policy's own after it."""
        task = declare(app, [Down()], attempts=2)

        with retries(attempts=4):
            task.apply()
        task.apply()

        assert len(task.runs) == 4 + 2

    @BASES
    def test_in_a_worker(self, app: Celery, broker: Broker, base: type) -> None:
        """Without waits the messages come at once; the total time ends it as it would with them."""
        task = declare(app, [Down()], base=base, attempts=100, stop=stop_after_delay(5))

        with retries():
            broker.run(task)

        assert broker.now == NOW
        assert len(task.runs) == 4

    @retries(attempts=1)
    def test_as_a_decorator(self, app: Celery) -> None:
        """A whole test can be without retries."""
        task = declare(app, [Down()])

        task.apply()

        assert len(task.runs) == 1

    @pytest.mark.parametrize("attempts", [0, True, 1.5, "3"])
    def test_numbers_that_mean_nothing(self, attempts: Any) -> None:
        """A number of attempts that cannot be is refused."""
        with (
            pytest.raises(ConfigurationError, match="attempts: expected"),
            retries(attempts=attempts),
        ):
            pass


class TestGivingUp:
    """What happens when there is no further attempt."""

    def test_hook(self, app: Celery, broker: Broker) -> None:
        """The hook learns which job it was, how often it was tried, and why it ended."""
        heard: list[GaveUp] = []
        error = Down()
        task = declare(app, [error], attempts=3, give_up=heard.append)

        broker.run(task, 1, task_id="job")

        assert heard == [
            GaveUp(
                task_name="unit.work", task_id="job", attempts=3, elapsed=4.0, reason="attempts",
                error=error, args=(1,), kwargs={},
            )
        ]  # fmt: skip
        assert "args" not in repr(heard[0])

    def test_hook_that_fails(
        self, app: Celery, broker: Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The task's own error stays the task's; the hook's is in the log."""

        def break_down(_: GaveUp) -> None:
            raise KeyError("hook")

        task = declare(app, [Down()], attempts=1, give_up=break_down)

        assert isinstance(broker.run(task).retval, Down)
        assert "its give_up hook failed" in caplog.text

    @BASES
    def test_dead_letter(self, app: Celery, broker: Broker, told: list[Any], base: type) -> None:
        """The whole message is kept, as if it had never been tried."""
        task = declare(app, [Down()], base=base, attempts=2, dead_letter=True)

        headers = {"tenant": "a", "x-death": [{"queue": "delayed"}]}  # RabbitMQ's, of its way here
        broker.run(task, 1, task_id="job", headers=headers)

        [(job, letter)] = app.conf.reliable_tasks_store.letters("rt1::{dead-letters}")
        kept = Letter.parse(letter)
        assert (job, kept.kind, kept.reason) == ("job", "gave up", "attempts")
        assert kept.content(["json"])[0] == [1]
        assert kept.headers["tenant"] == "a"
        assert not {NAME, "x-death"} & kept.headers.keys()
        assert [(each["attempt"], each["outcome"]) for each in kept.attempts] == [
            (1, "failed"),
            (2, "failed"),
        ]
        assert all(each["error"].endswith("Down") for each in kept.attempts)
        assert all("raise outcome" in each["traceback"] for each in kept.attempts)
        assert {"reason": "attempts"} in told

    @BASES
    def test_a_job_that_succeeds_leaves_no_notes(
        self, app: Celery, broker: Broker, base: type
    ) -> None:
        """What was noted of its attempts, in case they are given up, is not kept for days."""
        task = declare(app, [Down(), "done"], base=base, dead_letter=True)
        task.apply_async(task_id="job")
        store, notes = app.conf.reliable_tasks_store, notes_key("", "job")
        broker.deliver(broker.messages.pop())
        assert len(store.jottings(notes)) == 1

        broker.now += 2
        broker.deliver(broker.messages.pop())
        eventually(lambda: store.jottings(notes) == [])

    def test_dead_letter_in_eager_mode(self, app: Celery, eager_store: MemoryStore) -> None:
        """A test in eager mode finds it in the memory of its process."""
        task = declare(app, [Down()], attempts=1, dead_letter=True)

        task.apply(task_id="job")

        assert [job for job, _ in eager_store.letters("rt1::{dead-letters}")] == ["job"]

    def test_no_store_for_the_letter(
        self,
        app: Celery,
        broker: Broker,
        told: list[Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The job fails with its own error all the same, and the log says what is not kept."""
        asked = []

        def refuse(*_: Any, **__: Any) -> None:
            asked.append(True)
            raise StoreUnavailable("bury", "TimeoutError")

        monkeypatch.setattr(app.conf.reliable_tasks_store, "bury", refuse)
        monkeypatch.setattr(ending, "sleep", lambda _: None)
        task = declare(app, [Down()], attempts=1, dead_letter=True)

        assert isinstance(broker.run(task).retval, Down)
        assert len(asked) == 4
        assert "is not among the dead letters" in caplog.text
        assert {"reason": "attempts"} not in told


class TestTold:
    """Nothing is silent, and nothing that is said holds arguments."""

    def test_log_and_signal(
        self, app: Celery, broker: Broker, told: list[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Each attempt that is followed by another is one line and one signal."""
        caplog.set_level(logging.INFO, logger="reliable_tasks")
        task = declare(app, [Down("secret"), "done"])

        broker.run(task, "secret", task_id="job")

        kind = f"{__name__}.Down"
        assert told == [{"attempt": 1, "wait": 2.0, "error": kind, "reason": None}]
        [line] = [record for record in caplog.records if record.name == "reliable_tasks"]
        assert line.getMessage() == (
            f"Task unit.work[job] is tried again: attempt=1 wait=2.0 error={kind}"
        )
        assert line.data["wait"] == 2.0  # type: ignore[attr-defined]
        assert "secret" not in str(line.__dict__)


class TestLimits:
    """Budget and breaker are asked in a worker, and only there."""

    def test_budget(self, app: Celery, broker: Broker) -> None:
        """What exceeds the budget waits longer than the policy says."""
        budget = RetryBudget("b", ratio=0.0, minimum_per_second=0.1)
        task = declare(app, [Down()], attempts=2, budget=budget)
        for _ in range(3):
            task.delay()
        while (message := broker.messages.pop(0)).get("countdown") is None:
            broker.deliver(message)

        waits = sorted([message["countdown"], *(each["countdown"] for each in broker.messages)])

        assert waits[0] >= 2
        assert waits[-1] >= 15

    def test_breaker(
        self, app: Celery, broker: Broker, told: list[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """With an open breaker a job is put off before it begins, and has all its attempts left."""
        caplog.set_level(logging.INFO, logger="reliable_tasks")
        breaker = CircuitBreaker("c", failures=1, open_for=30)
        task = declare(app, [Down(), "done"], attempts=1, breaker=breaker)
        broker.run(task)  # opens it
        task.delay()

        info = broker.deliver(broker.messages.pop())

        assert (info.state, len(task.runs)) == ("RETRY", 1)
        assert (told[-1]["reason"], told[-1]["breaker"]) == ("breaker", "c")
        assert "is put off: attempt=1 wait=" in caplog.records[-1].getMessage()
        assert told[-1]["wait"] > 1
        assert Attempts.parse(
            broker.messages[0]["headers"][NAME], broker.messages[0]["task_id"]
        ).attempt == 1  # type: ignore[union-attr]  # fmt: skip

    def test_what_the_store_is_told(
        self, app: Celery, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A first attempt is a call, each retry takes a place of its own, each failure counts."""
        store, told = app.conf.reliable_tasks_store, list[tuple[str, str, Any]]()
        withdraw, say = store.withdraw, store.report

        def take_place(key: str, *, token: str, calls: Any, **terms: Any) -> int:
            told.append(("place", token, sum(count for _, count in calls)))
            return withdraw(key, token=token, calls=calls, **terms)

        def hear(key: str, *, token: str, failed: bool, **terms: Any) -> int:
            told.append(("ended", token, failed))
            return say(key, token=token, failed=failed, **terms)

        monkeypatch.setattr(store, "withdraw", take_place)
        monkeypatch.setattr(store, "report", hear)
        limits = {"budget": RetryBudget("b"), "breaker": CircuitBreaker("c")}
        task = declare(app, [Down(), Down(), "done"], **limits)

        broker.run(task)

        first, second = told[0][1], told[2][1]
        assert first != second
        assert told == [
            ("ended", first, True), ("place", first, 1),
            ("ended", second, True), ("place", second, 0),
        ]  # fmt: skip

    def test_time_before_the_first_attempt(self, app: Celery, broker: Broker) -> None:
        """The total time begins with the first attempt, however long the breaker put it off."""
        task = declare(app, [Down()], attempts=2, stop=stop_after_delay(5))
        put_off = Attempts(attempt=1, first_at=NOW - 60, due_at=NOW)

        broker.run(task, task_id="job", headers={NAME: put_off.encode("job")})

        assert len(task.runs) == 2

    @pytest.mark.parametrize("answer", ["done", KeyError("no such order")])
    def test_a_breaker_learns_of_answers(self, app: Celery, broker: Broker, answer: Any) -> None:
        """Calls that are answered keep it closed although one fails now and then."""
        breaker = CircuitBreaker("c", failures=2)
        task = declare(app, [answer] * 3 + [Down(), Down(), "done"], breaker=breaker)
        for _ in range(4):
            broker.run(task)

        assert len(task.runs) == 6
        assert broker.now == NOW + 4  # the two retries, and nothing was put off

    def test_not_in_eager_mode(self, app: Celery) -> None:
        """A test in eager mode needs no server for them, and is not put off."""
        app.conf.reliable_tasks_store = None
        breaker = CircuitBreaker("c", failures=1)
        task = declare(app, [Down(), "done"], attempts=1, budget=RetryBudget("b"), breaker=breaker)

        assert [task.apply().state for _ in range(2)] == ["FAILURE", "SUCCESS"]

    def test_not_without_waits(self, app: Celery, broker: Broker) -> None:
        """Nor does a test that has turned waits off."""
        app.conf.reliable_tasks_store = None
        breaker = CircuitBreaker("c", failures=1)
        task = declare(app, [Down(), "done"], budget=RetryBudget("b"), breaker=breaker)

        with retries():
            assert broker.run(task) is None


class TestRefused:
    """A declaration that cannot work is refused, with what to write instead."""

    @BASES
    @pytest.mark.parametrize(
        ("option", "value", "instead"),
        [
            ("max_retries", 3, "Use attempts="),
            ("max_retries", 0, "Use attempts="),
            ("autoretry_for", (Down,), "Use on="),
        ],
    )
    def test_celerys_own_retries(
        self, app: Celery, base: type, option: str, value: Any, instead: str
    ) -> None:
        """Two counts of the same attempts contradict each other."""
        with pytest.raises(ConfigurationError, match=rf"{option}: .* on unit\.work, .*{instead}"):
            declare(app, [], base=base, options={option: value, "lazy": False})

    @BASES
    def test_annotations_of_the_app(self, app: Celery, base: type) -> None:
        """What the app's settings set on the task counts, too."""
        app.conf.task_annotations = {"unit.work": {"max_retries": 9}}

        with pytest.raises(ConfigurationError, match="max_retries"):
            declare(app, [], base=base, options={"lazy": False})

    @BASES
    def test_no_limit_of_celerys(self, app: Celery, broker: Broker, base: type) -> None:
        """Without a limit of Celery's there is no contradiction."""
        task = declare(app, [Down()], base=base, options={"max_retries": None})

        broker.run(task)

        assert len(task.runs) == 5

    def test_class_of_celerys_base(self, app: Celery, broker: Broker) -> None:
        """A class that Celery shows to nobody is refused at worker start, and when it runs."""

        class Work(app.Task):
            name = "unit.class"
            max_retries = 1

            @retry_task(on=Down)
            def run(self) -> None:
                raise Down

        task = app.register_task(Work())

        with pytest.raises(ConfigurationError, match="max_retries"):
            check(app)
        assert isinstance(broker.run(task).retval, ConfigurationError)

    @pytest.mark.parametrize(
        ("given", "is_enough"),
        [
            ({"dead_letter": True}, False),
            ({"budget": RetryBudget("b")}, False),
            ({"breaker": CircuitBreaker("c")}, False),
            ({}, True),
        ],
    )
    def test_no_store(
        self, given: dict[str, Any], is_enough: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker whose tasks need a store, and which has none, does not start."""
        monkeypatch.setattr(_state, "_on_app_finalizers", set())  # tasks that others share
        app = Celery("unit", broker="memory://", set_as_current=False)
        declare(app, [], **given)

        refused = pytest.raises(ConfigurationError, match="store_url")
        with nullcontext() if is_enough else refused as error:
            check(app)

        if error is not None:
            assert notes_of(error.value) == [
                "This is about the budget, breaker or dead letters of the task unit.work."
            ]

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"on": None}, "on: expected"),
            ({"attempts": 0}, "attempts: expected"),
            ({"budget": "b"}, "budget: expected a RetryBudget"),
            ({"breaker": "b"}, "breaker: expected a CircuitBreaker"),
            ({"give_up": "log"}, "give_up: expected a plain function"),
            ({"give_up": never_awaited}, "give_up: expected a plain function"),
            ({"on": SoftTimeLimitExceeded}, "on: .* SoftTimeLimitExceeded, which is never tried"),
            ({"dead_letter": "yes"}, "dead_letter: expected True or False"),
        ],
    )
    def test_arguments(self, given: dict[str, Any], words: str) -> None:
        """An argument that means nothing is refused where it is written."""
        with pytest.raises(ConfigurationError, match=words):
            retry_task(**{"on": Down, **given})

    def test_twice(self) -> None:
        """One function has one policy."""
        decorate = retry_task(on=Down)

        with pytest.raises(ConfigurationError, match="once on a function"):
            decorate(decorate(lambda: None))

    def test_above_the_task(self, app: Celery) -> None:
        """It belongs below `@app.task`."""
        task = declare(app, [])

        with pytest.raises(ConfigurationError, match=r"below @app\.task"):
            retry_task(on=Down)(task)

    def test_coroutines(self) -> None:
        """A coroutine function runs nothing when it is called."""

        async def work() -> None:
            """Never awaited."""

        with pytest.raises(ConfigurationError, match="asynchronous"):
            retry_task(on=Down)(work)
