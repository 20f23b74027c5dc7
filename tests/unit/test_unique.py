"""What a call of a unique task becomes: a message, or the job that is there already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from celery import chain, group
from celery.signals import before_task_publish
from kombu import Queue

from reliable_tasks import (
    ConfigurationError,
    DuplicateJob,
    StoreUnavailable,
    UniqueResult,
    UniqueTask,
    task_deduplicated,
)
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing.clock import ManualClock
from tests.unit.test_publishing import Bench


class Store(MemoryStore):
    """A store that is down for the operations in *down*."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.down: set[str] = set()

    def _attempt(self, name: str) -> None:
        if name in self.down:
            raise StoreUnavailable(name, "down")

    def reserve(self, asks: Any) -> Any:
        self._attempt("reserve")
        return super().reserve(asks)

    def begin_reserve(self, key: str, ask: Any) -> Any:
        self._attempt("send")
        return partial(self._answer, key, ask)

    def _answer(self, key: str, ask: Any) -> Any:
        """Answer when the answer is read, as a server that is slow."""
        return super().begin_reserve(key, ask)()

    def confirm(self, words: Any) -> None:
        self._attempt("confirm")
        super().confirm(words)

    def unreserve(self, key: str, *, job: str) -> None:
        self._attempt("unreserve")
        super().unreserve(key, job=job)

    def end(self, key: str, **how: Any) -> None:
        self._attempt("end")
        super().end(key, **how)


class UniqueBench(Bench):
    """Unique tasks on a store whose time the test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.store = Store(self.clock)

    def unique(self, body: Any = None, **options: Any) -> Any:
        """Declare a unique task that notes its arguments, or does what *body* does."""

        def note(task: Any, *args: Any, **kwargs: Any) -> Any:
            self.ran.append(args[0] if args else kwargs)
            return args[0] if args else None

        return self.task(body or note, base=UniqueTask, store=self.store, **options)

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Let nothing be published."""
        send = self.app.amqp.send_task_message

        def fail(*_: Any, **__: Any) -> None:
            raise OSError("no broker")

        self.app.amqp.send_task_message = fail
        yield
        self.app.amqp.send_task_message = send

    def waiting(self) -> int:
        """Messages in the queue."""
        with self.app.connection_for_read() as connection:
            queue = connection.SimpleQueue(self.app.conf.task_default_queue)
            try:
                return int(queue.qsize())
            finally:
                queue.close()


@pytest.fixture
def bench() -> Iterator[UniqueBench]:
    bench = UniqueBench()
    yield bench
    bench.app.close()


def in_seconds(seconds: float) -> datetime:
    """Return a point in time."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


class TestQueued:
    """While an equal job waits, a call publishes nothing."""

    def test_duplicate(self, bench: UniqueBench) -> None:
        """It returns the result of the job that waits, and says so."""
        task = bench.unique()

        first, second = task.delay(1), task.delay(1)

        assert isinstance(first, UniqueResult)
        assert isinstance(second, UniqueResult)
        assert (first.duplicate, second.duplicate) == (False, True)
        assert second.id == first.id
        assert bench.waiting() == 1

    def test_other_arguments(self, bench: UniqueBench) -> None:
        """A call with other arguments is another job."""
        task = bench.unique()

        assert not task.delay(1).duplicate
        assert not task.delay(2).duplicate
        assert bench.waiting() == 2

    def test_same_arguments_in_another_form(self, bench: UniqueBench) -> None:
        """It does not matter how the call is written."""

        def body(task: Any, a: int, b: int = 2, *more: int, **rest: int) -> None:
            """Take effect."""

        task = bench.unique(body)

        task.delay(1)
        assert task.delay(b=2, a=1).duplicate
        assert not task.delay(1, 2, 3).duplicate
        assert not task.delay(1, c=3).duplicate

    def test_no_arguments(self, bench: UniqueBench) -> None:
        """All calls of a task without arguments are equal, also where the header is lost."""

        def body(task: Any) -> None:
            bench.ran.append("ran")

        task = bench.unique(body)

        first = task.delay()
        assert task.delay().duplicate
        bench.app.send_task(task.name)  # without our header
        bench.work()

        assert bench.ran == ["ran", "ran"]
        assert len([*bench.store.scan()]) == 1
        assert bench.ended[first.id] == ("SUCCESS", None)

    def test_named_arguments(self, bench: UniqueBench) -> None:
        """Where the task names arguments, calls are equal if those are."""

        def body(task: Any, shop: int, reason: str) -> None:
            """Take effect."""

        task = bench.unique(body, idempotency_key=("shop",))

        task.delay(1, "a")
        assert task.delay(1, "b").duplicate
        assert not task.delay(2, "a").duplicate

    def test_told(self, bench: UniqueBench) -> None:
        """A call that publishes nothing is a log line and a signal."""
        told: list[Any] = []
        task = bench.unique()

        def listen(sender: Any, **fields: Any) -> None:
            told.append((sender.name, fields["task_id"], fields["reason"]))

        task_deduplicated.connect(listen)
        first = task.delay(1)
        task.delay(1)

        assert told == [(task.name, first.id, "duplicate")]

    def test_raise(self, bench: UniqueBench) -> None:
        """Told to raise, a duplicate names the job."""
        task = bench.unique(on_duplicate="raise")
        first = task.delay(1)

        with pytest.raises(DuplicateJob) as raised:
            task.delay(1)

        assert raised.value.job == first.id
        assert bench.waiting() == 1

    def test_free_after_completion(self, bench: UniqueBench) -> None:
        """Once the job is done, an equal call is a job of its own."""
        task = bench.unique()
        task.delay(1)
        bench.work()
        bench.clock.advance(0.001)

        assert not task.delay(1).duplicate
        bench.work()

        assert bench.ran == [1, 1]

    def test_unique_for(self, bench: UniqueBench) -> None:
        """With unique_for an equal call is a duplicate for some time after success."""
        task = bench.unique(unique_for=60)
        first = task.delay(1)
        bench.work()

        bench.clock.advance(59)
        assert task.delay(1).id == first.id
        bench.clock.advance(2)
        assert not task.delay(1).duplicate

    def test_failure_frees(self, bench: UniqueBench) -> None:
        """After a failure an equal call runs, whatever unique_for says."""

        def body(task: Any) -> None:
            raise KeyError

        task = bench.unique(body, unique_for=60)
        task.delay()
        bench.work()

        assert not task.delay().duplicate


class TestTimes:
    """How long a job that nobody runs keeps its place."""

    def test_bound(self, bench: UniqueBench) -> None:
        """A job that is lost in the queue blocks equal calls no longer than reserved_for."""
        task = bench.unique(reserved_for=100)
        task.delay(1)

        bench.clock.advance(99)
        assert task.delay(1).duplicate
        bench.clock.advance(2)
        assert not task.delay(1).duplicate

    @pytest.mark.parametrize(
        "when",
        [
            lambda: {"countdown": 1_000},
            lambda: {"countdown": 1_000.0},
            lambda: {"eta": in_seconds(1_000)},
            lambda: {"eta": in_seconds(1_000).isoformat()},
        ],
        ids=["countdown", "float", "eta", "text"],
    )
    def test_bound_begins_when_it_is_due(self, bench: UniqueBench, when: Any) -> None:
        """The time until the ETA comes on top."""
        task = bench.unique(reserved_for=100)
        task.apply_async((1,), **when())

        bench.clock.advance(1_050)
        assert task.delay(1).duplicate
        bench.clock.advance(60)
        assert not task.delay(1).duplicate

    @pytest.mark.parametrize(
        "expires", [lambda: 50, lambda: in_seconds(50)], ids=["seconds", "time"]
    )
    def test_expiry_is_the_bound(self, bench: UniqueBench, expires: Any) -> None:
        """A job that expires in the queue keeps its place no longer."""
        task = bench.unique()
        task.apply_async((1,), expires=expires())

        bench.clock.advance(40)
        assert task.delay(1).duplicate
        bench.clock.advance(20)
        assert not task.delay(1).duplicate

    def test_expiry_goes_before_the_grace(self, bench: UniqueBench) -> None:
        """A job that expires soon blocks no longer than it can run."""
        task = bench.unique(publish_grace=30)
        task.apply_async((1,), expires=5)

        bench.clock.advance(4)
        assert task.delay(1).duplicate
        bench.clock.advance(2)
        assert not task.delay(1).duplicate

    @pytest.mark.parametrize(
        ("options", "at_once"),
        [
            ({}, False),
            ({"throttle": 5}, True),
            ({"keep_last": True}, True),
            ({"debounce": 5}, True),
        ],
    )
    def test_what_others_go_by_is_confirmed_at_once(
        self, bench: UniqueBench, options: dict[str, Any], at_once: bool
    ) -> None:
        """A confirmation waits for the next packet unless a window or an order depends on it."""
        task = bench.unique(**options)
        plan = task.plan((1,))
        [answer] = bench.store.reserve([plan.ask])
        _, word = plan.confirmation(answer)

        assert word.at_once is at_once

    def test_lost_confirmation(self, bench: UniqueBench) -> None:
        """A confirmation that is lost leaves the publish grace."""
        task = bench.unique(publish_grace=5)
        bench.store.down.add("confirm")
        task.delay(1)

        assert task.delay(1).duplicate
        bench.clock.advance(6)
        assert not task.delay(1).duplicate

    def test_grace_of_a_dead_producer(self, bench: UniqueBench) -> None:
        """A producer that died after reserving blocks for the grace."""
        task = bench.unique(publish_grace=5)
        plan = task.plan((1,))
        bench.store.reserve([plan.ask])

        assert task.delay(1).id == plan.task_id
        bench.clock.advance(6)
        assert not task.delay(1).duplicate


class TestTrouble:
    """A publish that fails, and a store that is down."""

    def test_failed_publish_frees(self, bench: UniqueBench) -> None:
        """The error is the caller's, and the next call publishes."""
        task = bench.unique()

        with bench.broken(), pytest.raises(OSError, match="no broker"):
            task.delay(1)

        assert not task.delay(1).duplicate

    def test_error_stays_the_publish_error(self, bench: UniqueBench) -> None:
        """A store that cannot be told hides nothing."""
        task = bench.unique()
        bench.store.down.add("unreserve")

        with bench.broken(), pytest.raises(OSError, match="no broker"):
            task.delay(1)

    @pytest.mark.parametrize("when", ["send", "reserve"])
    def test_store_down(
        self, bench: UniqueBench, caplog: pytest.LogCaptureFixture, when: str
    ) -> None:
        """Without the store a call is published unreserved, and a warning says so."""
        task = bench.unique()
        bench.store.down.add(when)

        first, second = task.delay(1), task.delay(1)

        assert first.id != second.id
        assert "without a reservation" in caplog.text


class Noted(Store):
    """A store that notes when it is asked, and when its answer is read."""

    def __init__(self, clock: ManualClock, steps: list[str]) -> None:
        super().__init__(clock)
        self.steps = steps

    def begin_reserve(self, key: str, ask: Any) -> Any:
        self.steps.append("asked")
        return super().begin_reserve(key, ask)

    def reserve(self, asks: Any) -> Any:
        self.steps.append("read")
        return super().reserve(asks)


class TestMeanwhile:
    """Celery makes the message while the store's answer is on its way."""

    @pytest.fixture
    def steps(self, bench: UniqueBench) -> Iterator[list[str]]:
        """Note the steps of a call in turn."""
        steps: list[str] = []
        bench.store = Noted(bench.clock, steps)
        create = bench.app.amqp.create_task_message

        def note(*args: Any, **options: Any) -> Any:
            steps.append("made")
            return create(*args, **options)

        def announce(**_: Any) -> None:
            steps.append("announced")

        bench.app.amqp.create_task_message = note
        before_task_publish.connect(announce)
        yield steps
        before_task_publish.disconnect(announce)

    def test_order(self, bench: UniqueBench, steps: list[str]) -> None:
        """The answer is read when the message is made, and before Celery announces it."""
        bench.unique().delay(1)

        assert steps == ["asked", "made", "read", "announced"]

    def test_duplicate(self, bench: UniqueBench, steps: list[str]) -> None:
        """Nobody hears of a message that is not published."""
        task = bench.unique()
        task.delay(1)
        steps.clear()

        assert task.delay(1).duplicate
        assert steps == ["asked", "made", "read"]

    def test_duplicate_without_a_broker(
        self, bench: UniqueBench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It needs neither the broker nor the result backend."""
        task = bench.unique()
        first = task.delay(1)

        def fail(*_: Any, **__: Any) -> None:
            raise OSError("not there")

        monkeypatch.setattr(bench.app, "producer_or_acquire", fail)
        monkeypatch.setattr(bench.app.backend, "on_task_call", fail)

        assert task.delay(1).id == first.id

    def test_duplicate_leaves_the_pool_alone(self, bench: UniqueBench) -> None:
        """Kombu closes a pooled connection when an error passes by it."""
        task = bench.unique()
        task.delay(1)
        with bench.app.producer_or_acquire() as producer:
            connection = producer.connection

        assert task.delay(1).duplicate
        assert connection.connected

    def test_connection_of_the_caller(self, bench: UniqueBench, steps: list[str]) -> None:
        """It is left to Celery as it is, and the answer is waited for at once."""
        with bench.app.connection_for_write() as connection:
            bench.unique().apply_async((1,), connection=connection)

            assert connection.connected
        assert steps == ["asked", "read", "made", "announced"]

    def test_raised(self, bench: UniqueBench) -> None:
        """The caller's error does not come of ours."""
        task = bench.unique(on_duplicate="raise")
        task.delay(1)

        with pytest.raises(DuplicateJob) as error:
            task.delay(1)

        assert error.value.__context__ is None

    @pytest.mark.parametrize("options", [{"keep_last": True}, {"debounce": 5}])
    def test_time_that_the_answer_sets(
        self, bench: UniqueBench, steps: list[str], options: dict[str, Any]
    ) -> None:
        """A message whose countdown depends on it is made when it is there."""
        bench.unique(**options).delay(1)

        assert steps == ["asked", "read", "made", "announced"]

    def test_router_that_looks(self, bench: UniqueBench, steps: list[str]) -> None:
        """Who looks at the headers before waits for them, and sees them whole."""
        seen: list[dict[str, Any]] = []
        bench.app.conf.task_routes = [lambda *args, **_: seen.append(dict(args[3]["headers"]))]

        bench.unique().apply_async((1,), headers={"tenant": "a"})

        assert steps == ["asked", "read", "made", "announced"]
        assert seen[0]["tenant"] == "a"
        assert "reliable_tasks" in seen[0]

    def test_tracer_that_changes_them(
        self, bench: UniqueBench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What wraps `send_task`, as error trackers do, may copy, take from and add to them."""
        send_task = bench.app.send_task

        def traced(*args: Any, **options: Any) -> Any:
            headers = options.get("headers") or {}
            headers.pop("secret", None)
            options["headers"] = {**headers.copy(), "traced": "yes"}
            return send_task(*args, **options)

        monkeypatch.setattr(bench.app, "send_task", traced)
        seen: list[dict[str, Any]] = []

        def body(task: Any, _: int) -> None:
            seen.append(task.request.headers)

        task = bench.unique(body)

        task.apply_async((1,), headers={"secret": "s", "tenant": "a"})
        assert task.delay(1).duplicate
        bench.work()

        [headers] = seen
        assert headers["traced"] == "yes"
        assert headers["tenant"] == "a"
        assert "secret" not in headers

    def test_tracer_that_merges_them(
        self, bench: UniqueBench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Merged with others from either side they are a plain dictionary."""
        send_task = bench.app.send_task
        merged: list[Any] = []

        def traced(*args: Any, **options: Any) -> Any:
            options["headers"] = {"before": 1, "tenant": "b"} | options["headers"] | {"after": 2}
            merged.append(options["headers"])
            return send_task(*args, **options)

        monkeypatch.setattr(bench.app, "send_task", traced)

        bench.unique().apply_async((1,), headers={"tenant": "a"})

        assert type(merged[0]) is dict
        assert merged[0]["tenant"] == "a"
        assert merged[0].keys() == {"before", "tenant", "after", "reliable_tasks"}

    def test_error_before_the_answer_was_read(self, bench: UniqueBench) -> None:
        """The key is free again."""
        task = bench.unique()
        troubles = [LookupError("no route")]

        def route(*_: Any, **__: Any) -> None:
            if troubles:
                raise troubles.pop()

        bench.app.conf.task_routes = [route]
        with pytest.raises(LookupError, match="no route"):
            task.delay(1)

        assert not task.delay(1).duplicate

    def test_given_headers_are_not_changed(self, bench: UniqueBench) -> None:
        """They are the caller's."""
        given = {"tenant": "a"}

        bench.unique().apply_async((1,), headers=given)

        assert given == {"tenant": "a"}


class TestAwaited:
    """What others wait for is never suppressed."""

    @pytest.mark.parametrize(
        "options",
        [
            {"link": True},
            {"link_error": True},
            {"task_id": "mine"},
            {"parent_id": "of-a-callback"},
            {"chain": []},
            {"group_id": "group"},
        ],
        ids=lambda options: next(iter(options)),
    )
    def test_published_beside_an_equal_one(
        self, bench: UniqueBench, options: dict[str, Any]
    ) -> None:
        """It is published all the same, and answered with the result of the job that was there."""

        def end(self: Any, *_: Any) -> None:
            """Hear of it."""

        task, ending = bench.unique(), bench.task(end)
        options = {name: ending.s() if value is True else value for name, value in options.items()}
        first = task.delay(1)

        second = task.apply_async((1,), **options)

        assert not second.duplicate
        assert second.id != first.id
        bench.clock.advance(1)
        bench.work()
        assert bench.ran == [1]
        assert bench.ended[second.id] == bench.ended[first.id] == ("SUCCESS", 1)

    def test_reserves(self, bench: UniqueBench) -> None:
        """A plain call beside it is a duplicate of it."""
        task = bench.unique()

        first = task.apply_async((1,), task_id="mine")

        assert task.delay(1).id == first.id == "mine"

    def test_call_after_it_ended_is_fresh(self, bench: UniqueBench) -> None:
        """One that is called after the equal job ended runs itself."""
        task = bench.unique()
        task.delay(1)
        bench.work()
        bench.clock.advance(0.001)

        task.apply_async((1,), task_id="mine")
        bench.work()

        assert bench.ran == [1, 1]

    @pytest.mark.parametrize("build", [chain, group])
    def test_flow_of_equal_jobs(self, bench: UniqueBench, build: Any) -> None:
        """Each part of a flow ends; parts that were called together share one run."""
        task = bench.unique()
        task.delay(1)

        build(task.si(1), task.si(1)).apply_async()
        bench.clock.advance(1)
        bench.work()

        assert len(bench.ended) == 3
        assert {state for state, _ in bench.ended.values()} == {"SUCCESS"}
        assert len(bench.ran) == (1 if build is group else 2)

    def test_result_too_large_to_share(self, bench: UniqueBench) -> None:
        """Where the result was not kept, the other job runs."""
        task = bench.unique(max_result_bytes=0)
        task.delay(1)

        task.apply_async((1,), task_id="mine")
        bench.work()

        assert bench.ran == [1, 1]
        assert bench.ended["mine"] == ("SUCCESS", 1)


class TestOwnMessages:
    """A job's own messages are no duplicates of it."""

    @pytest.mark.parametrize("how", ["retry", "autoretry_for"])
    def test_retry(self, bench: UniqueBench, how: str) -> None:
        """A retry does not block itself; an equal call meanwhile is a duplicate."""
        meanwhile: list[Any] = []

        def body(self: Any, number: int) -> str:
            bench.ran.append(self.request.retries)
            if self.request.retries < 2:
                if how == "retry":
                    raise self.retry(countdown=60)
                raise ValueError
            return "done"

        options: dict[str, Any] = {} if how == "retry" else {"autoretry_for": (ValueError,)}
        task = bench.unique(body, **options)

        first = task.delay(1)
        bench.work(1)
        meanwhile.append(task.delay(1))
        bench.clock.advance(3_000)
        meanwhile.append(task.delay(1))
        bench.work()

        assert bench.ran == [0, 1, 2]
        assert {each.id for each in meanwhile} == {first.id}
        assert bench.ended[first.id] == ("SUCCESS", "done")

    def test_call_from_inside(self, bench: UniqueBench) -> None:
        """A job that calls its own task with its own arguments gets itself."""
        inside: list[Any] = []

        def body(self: Any, number: int) -> None:
            inside.append(self.delay(number))

        first = bench.unique(body).delay(1)
        bench.work()

        assert [each.id for each in inside] == [first.id]

    def test_replaced_by_itself(self, bench: UniqueBench) -> None:
        """A task that replaces itself goes on under its id."""

        def body(self: Any, number: int) -> Any:
            bench.ran.append(number)
            return self.replace(self.s(number + 1)) if number < 2 else number

        first = bench.unique(body).delay(0)
        bench.work()

        assert bench.ran == [0, 1, 2]
        assert bench.ended[first.id] == ("SUCCESS", 2)

    def test_rejected_message_keeps_its_place(self, bench: UniqueBench) -> None:
        """A body that gives its message back to the queue keeps its key for the grace."""
        from celery.exceptions import Reject

        def body(self: Any, number: int) -> None:
            raise Reject("not now", requeue=True)

        task = bench.unique(body, publish_grace=5)
        first = task.delay(1)
        bench.work(1)

        assert task.delay(1).id == first.id
        bench.clock.advance(6)
        assert not task.delay(1).duplicate


class TestRevoke:
    """Who revokes a job frees its place."""

    @pytest.fixture
    def revoked(self, bench: UniqueBench, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What the workers are told; none of them hears it."""
        revoked: list[str] = []
        monkeypatch.setattr(bench.app.control, "revoke", lambda job, **_: revoked.append(job))
        return revoked

    def test_result(self, bench: UniqueBench, revoked: list[str]) -> None:
        """The next call publishes at once, and what was revoked does not run."""
        task = bench.unique()
        first = task.delay(1)

        task.delay(1).revoke()
        second = task.delay(1)
        bench.work()

        assert revoked == [first.id]
        assert not second.duplicate
        assert bench.ended[second.id] == ("SUCCESS", 1)
        assert bench.ran == [1]

    def test_waits_for_its_retry(self, bench: UniqueBench, revoked: list[str]) -> None:
        """The next call need not wait for the ETA of a retry that will not run."""

        def body(task: Any, number: int) -> None:
            bench.ran.append(task.request.id)
            raise task.retry(countdown=3_600)

        task = bench.unique(body)
        first = task.delay(1)
        bench.work(1)
        first.revoke()

        second = task.delay(1)
        bench.work(2)

        assert not second.duplicate
        assert bench.ran == [first.id, second.id]

    def test_runs(self, bench: UniqueBench, revoked: list[str]) -> None:
        """A job that runs goes on, as with Celery, and keeps its key until it has ended."""

        def body(task: Any, number: int) -> bool:
            first.revoke()
            return bool(task.delay(number).duplicate)

        task = bench.unique(body)
        first = task.delay(1)
        bench.work()

        assert bench.ended[first.id] == ("SUCCESS", True)

    def test_store_is_down(
        self, bench: UniqueBench, revoked: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The workers are told all the same, and a warning says that the key is not free."""
        first = bench.unique().delay(1)
        bench.store.down.add("end")

        first.revoke()

        assert revoked == [first.id]
        assert "stays reserved until its time is over" in caplog.text

    def test_result_of_an_id(self, bench: UniqueBench, revoked: list[str]) -> None:
        """A result that was made of an id alone revokes as Celery does."""
        bench.unique().AsyncResult("some").revoke()

        assert revoked == ["some"]


class TestKeepLast:
    """A change while the job runs causes one more run, with the last arguments."""

    @pytest.fixture
    def task(self, bench: UniqueBench) -> Any:
        def body(self: Any, shop: int, version: int) -> int:
            bench.ran.append(version)
            if version == 0:
                for change in (1, 2, 2, 3):
                    bench.clock.advance(1)
                    changes.append(self.delay(shop, change))
            return version

        changes = bench.changes = []  # type: ignore[attr-defined]
        return bench.unique(body, idempotency_key=("shop",), keep_last=True)

    def test_three_changes(self, bench: UniqueBench, task: Any) -> None:
        """Of the calls that came while it ran only the last runs; the others are revoked."""
        first = task.delay(1, 0)
        bench.work()

        changes = bench.changes  # type: ignore[attr-defined]
        assert bench.ran == [0, 3]
        assert [each.duplicate for each in changes] == [False, False, True, False]
        assert changes[1].id == changes[2].id
        assert changes[0].state == changes[1].state == "REVOKED"
        assert bench.ended[first.id] == ("SUCCESS", 0)
        assert bench.ended[changes[3].id] == ("SUCCESS", 3)

    def test_waiting_call_is_replaced(self, bench: UniqueBench, task: Any) -> None:
        """Two calls that wait become one, with the arguments of the last."""
        task.delay(1, 5)
        bench.clock.advance(1)
        task.delay(1, 6)

        bench.work()

        assert bench.ran == [6]

    def test_equal_calls_are_duplicates(self, bench: UniqueBench, task: Any) -> None:
        """A call with the arguments of the one that waits publishes nothing."""
        task.delay(1, 5)
        assert task.delay(1, 5).duplicate

        bench.work()

        assert bench.ran == [5]

    def test_publish_that_fails_replaces_nothing(self, bench: UniqueBench, task: Any) -> None:
        """The call that waits runs if the one that would have replaced it was never published."""
        task.delay(1, 5)
        bench.clock.advance(1)
        with bench.broken(), pytest.raises(OSError, match="no broker"):
            task.delay(1, 6)

        bench.work()

        assert bench.ran == [5]

    def test_awaited_call_is_not_replaced(self, bench: UniqueBench, task: Any) -> None:
        """What others wait for runs, whatever comes after it."""
        task.apply_async((1, 5), task_id="mine")
        bench.clock.advance(1)
        task.delay(1, 6)

        bench.work()

        assert bench.ran == [5, 6]


class TestDebounce:
    """The run comes so long after the last call."""

    @pytest.fixture
    def task(self, bench: UniqueBench) -> Any:
        def body(self: Any, shop: int, version: int) -> None:
            bench.ran.append(version)

        return bench.unique(body, idempotency_key=("shop",), debounce=10, debounce_limit=25)

    def due(self, bench: UniqueBench) -> float:
        """Seconds until the waiting job of the only key is due."""
        [key] = bench.store.scan()
        record = bench.store.peek(key)
        assert record is not None
        assert record.waiting is not None
        return (record.waiting.due_ms - bench.clock.now_us() // 1_000) / 1_000

    @pytest.mark.parametrize(("debounce", "seconds"), [(0.4, 1), (1.4, 2), (2, 2)])
    def test_whole_seconds_on_quorum_queues(
        self, bench: UniqueBench, monkeypatch: pytest.MonkeyPatch, debounce: float, seconds: int
    ) -> None:
        """A delay of less than a second, which RabbitMQ refuses, is rounded up."""
        quorum = {"x-queue-type": "quorum"}
        bench.app.conf.task_queues = [Queue("celery", queue_arguments=quorum)]
        task, sent = bench.unique(idempotency_key=lambda shop: shop, debounce=debounce), []

        def send(*_: Any, **options: Any) -> Any:
            sent.append(options["countdown"])
            return bench.app.AsyncResult("job")

        monkeypatch.setattr(bench.app, "send_task", send)
        task.delay(1)

        assert sent == [seconds]

    def test_what_others_wait_for(self, bench: UniqueBench, task: Any) -> None:
        """A call with an id of its own runs at once, and an equal call is put off beside it."""
        known = task.apply_async((1, "a"), task_id="known")
        assert not task.delay(1, "a").duplicate
        bench.work(1)

        assert bench.ended[known.id] == ("SUCCESS", None)
        assert self.due(bench) == 10

    def test_put_off_by_equal_calls(self, bench: UniqueBench, task: Any) -> None:
        """An equal call publishes nothing, and puts the run off, up to the limit."""
        task.delay(1, 5)
        assert self.due(bench) == 10
        bench.clock.advance(8)
        assert task.delay(1, 5).duplicate
        assert self.due(bench) == 10
        bench.clock.advance(8)
        assert task.delay(1, 5).duplicate
        assert self.due(bench) == 9

    def test_message_that_comes_early_waits(self, bench: UniqueBench, task: Any) -> None:
        """The one message goes back for as long as the run was put off."""
        task.delay(1, 5)
        bench.work(1)
        assert bench.ran == []
        assert bench.waiting() == 1

        bench.clock.advance(10)
        bench.work()

        assert bench.ran == [5]

    def test_other_arguments_replace(self, bench: UniqueBench, task: Any) -> None:
        """The run has the arguments of the last call."""
        replaced = task.delay(1, 5)
        bench.clock.advance(8)
        task.delay(1, 6)
        bench.clock.advance(10)

        bench.work()

        assert bench.ran == [6]
        assert replaced.state == "REVOKED"

    @pytest.mark.parametrize("option", ["countdown", "eta", "expires"])
    def test_time_of_its_own(self, bench: UniqueBench, task: Any, option: str) -> None:
        """A call cannot say when it is to run, or until when, for the task and later calls do."""
        with pytest.raises(ConfigurationError, match=f"^{option}: expected neither"):
            task.apply_async((1, 5), **{option: 3})

    def test_awaited_call_runs_at_once(self, bench: UniqueBench, task: Any) -> None:
        """What others wait for is not put off."""
        task.apply_async((1, 5), task_id="mine")

        bench.work()

        assert bench.ran == [5]


class TestThrottle:
    """One call in a window."""

    def test_window(self, bench: UniqueBench) -> None:
        """After the first call the others are its duplicates until the window is over."""
        task = bench.unique(throttle=60)
        first = task.delay(1)
        bench.work()

        bench.clock.advance(50)
        assert task.delay(1).id == first.id
        bench.clock.advance(11)
        assert not task.delay(1).duplicate

    def test_window_of_a_slow_producer(self, bench: UniqueBench) -> None:
        """The window is open before the message is published."""
        task = bench.unique(throttle=60)
        plan = task.plan((1,))
        assert plan.ask is not None
        [answer] = bench.store.reserve([plan.ask])
        task.publish(plan, answer)
        bench.work()

        assert task.delay(1).id == plan.task_id

    def test_failed_publish_opens_no_window(self, bench: UniqueBench) -> None:
        """A call that was never published holds no other back."""
        task = bench.unique(throttle=60)
        with bench.broken(), pytest.raises(OSError, match="no broker"):
            task.delay(1)

        assert not task.delay(1).duplicate


class TestDeclaration:
    """Options come from the class, the decorator and the app."""

    def test_retention_is_refused(self, bench: UniqueBench) -> None:
        """The option that says the same is named."""
        with pytest.raises(ConfigurationError, match="unique_for"):
            bench.unique(retention=60, lazy=False)

    def test_modes_are_refused_together(self, bench: UniqueBench) -> None:
        """Two modes on one task are refused when it is declared."""
        with pytest.raises(ConfigurationError, match="at most one"):
            bench.unique(keep_last=True, throttle=60, lazy=False)

    def test_settings(self, bench: UniqueBench) -> None:
        """What the task leaves open, the app's settings say; its retention is for other tasks."""
        bench.app.conf.reliable_tasks_reserved_for = 100
        bench.app.conf.reliable_tasks_retention = 1_000
        task = bench.unique()

        assert task.uniqueness.reserved_for_ms == 100_000
        assert task.guard_options.retention_ms == 0

    def test_settings_that_do_not_suit(self, bench: UniqueBench) -> None:
        """Settings that are right for the other tasks of the app keep no unique one from calls."""
        bench.app.conf.reliable_tasks_when_failed = "remember"
        bench.app.conf.reliable_tasks_when_running = "skip"

        plain, latest = bench.unique(name="plain"), bench.unique(name="latest", keep_last=True)
        for task in (plain, latest):
            task.delay(1)
        bench.work()

        assert bench.ran == [1, 1]
        assert plain.guard_options.when_running == "skip"
        assert latest.guard_options.when_running == "defer"


class TestEager:
    """Eager tasks run at once, so none is queued."""

    def test_always_eager(self, bench: UniqueBench) -> None:
        """Each call runs and is no duplicate."""
        bench.app.conf.task_always_eager = True
        task = bench.unique()

        results = [task.delay(1), task.delay(1), task.apply((1,))]

        assert [each.get() for each in results] == [1, 1, 1]
        assert [getattr(each, "duplicate", False) for each in results] == [False] * 3
        assert bench.ran == [1, 1, 1]


class TestReliance:
    """Whoever was told of a job has its run after the call."""

    def test_job_that_will_be_answered(self, bench: UniqueBench) -> None:
        """Nobody relies on a waiting job that a run of before answers."""
        task = bench.unique()
        bench.app.send_task(task.name, (1,))  # unreserved: it comes first
        first = task.delay(1)
        bench.clock.advance(1)
        bench.work(1)
        bench.clock.advance(1)

        later = task.delay(1)
        assert not later.duplicate
        assert task.delay(1).id == later.id
        bench.work()

        assert bench.ran == [1, 1]
        assert bench.ended[first.id] == bench.ended[later.id] == ("SUCCESS", 1)

    def test_call_for_later(self, bench: UniqueBench) -> None:
        """What was done before a job was due is no answer to it, and calls rely on the job."""
        task = bench.unique()
        bench.app.send_task(task.name, (1,))
        late = task.apply_async((1,), countdown=10)
        bench.clock.advance(1)
        bench.work(1)
        assert task.delay(1).id == late.id

        bench.clock.advance(9)
        bench.work()
        assert bench.ended[late.id] == ("SUCCESS", 1)
        assert bench.ran == [1, 1]

    def test_duplicate_for_later(self, bench: UniqueBench) -> None:
        """A call with an id of its own and an ETA is not answered by what was done before that."""
        task = bench.unique()
        task.delay(1)
        late = task.apply_async((1,), task_id="known", countdown=10)
        bench.clock.advance(1)
        bench.work(1)

        bench.clock.advance(9)
        bench.work()
        assert bench.ended[late.id] == ("SUCCESS", 1)
        assert bench.ran == [1, 1]

    def test_arguments_that_must_agree(self, bench: UniqueBench) -> None:
        """A call that shares its key by mistake is not suppressed in silence."""

        def body(task: Any, shop: int, version: int) -> int:
            return version

        task = bench.unique(body, idempotency_key=("shop",), same_payload=("version",))

        assert [task.delay(1, version).duplicate for version in (1, 1, 2)] == [False, True, False]
