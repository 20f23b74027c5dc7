"""What a guarded task publishes for itself: retries, replacements, successors."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from kombu.exceptions import EncodeError
from kombu.serialization import prepare_accept_content
from kombu.simple import SimpleQueue

from reliable_tasks import IdempotentTask, LeaseLost
from reliable_tasks.deadletter.letters import Letter
from reliable_tasks.stores.memory import MemoryStore


class Bench:
    """An app whose broker is in memory, and one who does a worker's work here and now."""

    def __init__(self) -> None:
        self.app = Celery("bench", broker="memory://", backend="cache+memory://")
        self.app.set_default = lambda: None
        self.app.conf.task_default_queue = f"queue-{uuid4()}"
        self.ran: list[Any] = []
        self.headers: list[dict[str, Any]] = []
        self.ended: dict[str, Any] = {}

    def task(self, body: Any, **options: Any) -> Any:
        """Declare *body* as a bound, guarded task with a store in memory."""
        options = {
            "base": IdempotentTask,
            "bind": True,
            "shared": False,
            "store": MemoryStore(),
            **options,
        }
        return self.app.task(**options)(body)

    def work(self, most: int = 50) -> None:
        """Execute what waits in the queue, and what that publishes, without waiting for ETAs."""
        with self.app.connection_for_read() as connection:
            queue = connection.SimpleQueue(self.app.conf.task_default_queue)
            queue.consumer.accept = prepare_accept_content(self.app.conf.accept_content)
            try:
                self._drain(queue, most)
            finally:
                queue.close()

    def _drain(self, queue: SimpleQueue, most: int) -> None:
        for _ in range(most):
            try:
                message = queue.get(block=False)
            except queue.Empty:
                return
            self._execute(message)
            message.ack()
        assert most < 50, "it never ends"

    def _execute(self, message: Any) -> None:
        args, kwargs, embed = message.payload
        request = {**message.headers, **embed, "delivery_info": message.delivery_info}
        self.headers.append(message.headers)
        task = self.app.tasks[message.headers["task"]]
        trace = build_tracer(task.name, task, app=self.app)
        result, info, *_ = trace(request["id"], args, kwargs, {**request, "is_eager": False})
        self.ended[request["id"]] = (info.state, info.retval) if info else ("SUCCESS", result)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.app.close()


class TestReplacement:
    """A task that is replaced by itself goes on, wherever its id went."""

    @pytest.mark.parametrize("retries", [0, 2])
    @pytest.mark.parametrize("in_chain", [False, True])
    def test_runs(self, bench: Bench, retries: int, in_chain: bool) -> None:
        """After retries and inside a chain too, and its own retries are no older copies."""

        def page(self: Any, number: int) -> int:
            bench.ran.append((number, self.request.retries))
            if self.request.retries < retries:
                raise self.retry(countdown=0)
            return self.replace(page_task.s(number + 1)) if number < 2 else number

        def end(self: Any, number: int) -> None:
            bench.ran.append(("last", number))

        page_task, last = bench.task(page), bench.task(end)

        (page_task.s(0) | last.s() if in_chain else page_task.s(0)).apply_async()
        bench.work()

        pages = [(number, again) for number in range(3) for again in range(retries + 1)]
        assert bench.ran == pages + ([("last", 2)] if in_chain else [])


class TestHopeless:
    """What never can be published fails the job once, instead of running its body for ever."""

    def test_retry(self, bench: Bench) -> None:
        """Arguments that no message can carry are the job's own error."""

        def body(self: Any, value: Any = None) -> None:
            bench.ran.append(1)
            raise self.retry(args=(object(),), countdown=0)

        sent = bench.task(body).delay()
        bench.work()

        state, error = bench.ended[sent.id]
        assert (bench.ran, state, type(error)) == ([1], "FAILURE", EncodeError)

    def test_replacement(self, bench: Bench) -> None:
        """So it is for what should replace the task."""

        def body(self: Any, value: Any = None) -> None:
            bench.ran.append(1)
            self.replace(task.s(object()))

        task = bench.task(body)
        sent = task.delay()
        bench.work()

        state, error = bench.ended[sent.id]
        assert (bench.ran, state, type(error)) == ([1], "FAILURE", EncodeError)


class TestSuccessor:
    """A message that waits for its turn."""

    def test_of_a_retry_hides_what_its_message_hid(self, bench: Bench) -> None:
        """Arguments that the producer keeps from logs and monitors stay hidden."""

        def body(self: Any, password: str) -> None:
            if self.request.retries == 0:
                raise self.retry(countdown=0)

        bench.task(body).apply_async(("secret",), argsrepr="hidden")
        bench.work()

        assert [headers["argsrepr"] for headers in bench.headers] == ["hidden", "hidden"]

    def test_of_a_deferral_hides_what_its_message_hid(self, bench: Bench) -> None:
        """So they do while a copy waits for its turn."""

        def body(self: Any, password: str) -> None:
            task.apply_async((password,), task_id=self.request.id, argsrepr="hidden")
            bench.work(1)

        task = bench.task(body)
        task.apply_async(("secret",), argsrepr="hidden")
        bench.work()

        assert [headers["argsrepr"] for headers in bench.headers] == ["hidden"] * 3


def test_a_lost_lease_is_not_retried(bench: Bench) -> None:
    """An autoretry for everything does not spend its tries on executions that were overtaken."""

    def body(self: Any) -> str:
        bench.ran.append(self.request.retries)
        if len(bench.ran) == 1:
            lease = self.lease
            raise LeaseLost(lease.key, 1.0, 2.0)
        return "done"

    sent = bench.task(body, autoretry_for=(Exception,), default_retry_delay=0).delay()
    bench.work()

    assert bench.ran == [0, 0]
    assert bench.ended[sent.id] == ("SUCCESS", "done")


class TestStarted:
    """The state STARTED, for those who ask for it."""

    def test_is_stored_while_the_body_runs(self, bench: Bench) -> None:
        """With `track_started` a run can be seen from outside, on the task or for the app."""

        def body(self: Any) -> None:
            bench.ran.append(self.AsyncResult(self.request.id).state)

        task = bench.task(body, track_started=True)
        task.delay()
        task.apply_async(ignore_result=True)
        bench.work()

        assert bench.ran == ["STARTED", "PENDING"]

    def test_of_a_copy_does_not_hide_a_failure(self, bench: Bench) -> None:
        """A copy that is dropped has not started: whoever waits still learns of the failure."""

        def body(self: Any) -> None:
            raise KeyError

        task = bench.task(body, track_started=True)
        link_error = bench.task(_nothing).s()
        for _ in range(2):
            sent = task.apply_async(task_id="failed", link_error=link_error)
            bench.work()

        assert bench.ended["failed"][0] == "IGNORED"
        assert sent.state == "FAILURE"


class TestCallbacks:
    """What hangs on a message, when it cannot be sent."""

    @pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")
    def test_that_never_fits_is_reported_once(self, bench: Bench) -> None:
        """A callback that takes no result does not keep the delivery coming for ever."""

        def body(self: Any) -> int:
            bench.ran.append(1)
            return 7

        task, callback = bench.task(body), bench.task(_takes_none)
        sent = task.apply_async(link=callback.s())
        bench.work()

        state, error = bench.ended[sent.id]
        assert (bench.ran, state, type(error)) == ([1], "FAILURE", TypeError)

    def test_for_errors_that_never_fits_is_logged(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The job fails with its own error, and the log says what is wrong with its callback."""

        def body(self: Any) -> None:
            raise KeyError

        sent = bench.task(body).apply_async(link_error=bench.task(_takes_none).s())
        bench.work()

        state, error = bench.ended[sent.id]
        assert (state, type(error)) == ("FAILURE", KeyError)
        assert "an error callback does not fit" in caplog.text

    def test_already_sent_is_not_sent_again(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the result store fails, only what is left is tried again."""

        def note(self: Any, number: int) -> None:
            bench.ran.append(number)

        task, callback = bench.task(_nothing), bench.task(note)
        store, failures = task.backend.mark_as_done, iter([OSError(), OSError()])

        def mark_as_done(*args: Any, **kwargs: Any) -> Any:
            for failure in failures:
                raise failure
            return store(*args, **kwargs)

        monkeypatch.setattr(task.backend, "mark_as_done", mark_as_done)
        task.apply_async(link=[callback.si(1), callback.si(2)])
        bench.work()

        assert bench.ran == [1, 2]


def _nothing(self: Any, *_: Any) -> None:
    pass


def _takes_none(self: Any) -> None:
    pass


class TestPickled:
    """A message in another form than the task's own serializer writes."""

    @pytest.fixture(autouse=True)
    def _accepted(self, bench: Bench) -> None:
        bench.app.conf.accept_content = ["json", "pickle"]

    def test_waits_for_its_turn_in_the_same_form(self, bench: Bench) -> None:
        """Its successor is published, instead of the delivery coming back every second."""

        def body(self: Any, value: Any) -> None:
            task.apply_async((value,), task_id=self.request.id, serializer="pickle")
            bench.work(1)

        task = bench.task(body)
        task.apply_async((2j,), serializer="pickle")
        bench.work()

        assert len(bench.headers) == 3
        assert bench.ended[bench.headers[0]["id"]][0] != "REJECTED"

    def test_is_kept_whole_when_it_is_quarantined(self, bench: Bench) -> None:
        """No payload is lost because JSON cannot carry it."""

        def body(self: Any, value: Any) -> None:
            raise SystemExit

        task = bench.task(body, max_crashes=1)
        task.apply_async((2j,), task_id="poison", serializer="pickle")
        task.apply_async((2j,), task_id="poison", serializer="pickle")
        with pytest.raises(SystemExit):
            bench.work()
        bench.work()

        [(job, letter)] = task.records.letters(task.shelf.name)
        kept = Letter.parse(letter)
        assert (job, kept.kind) == ("poison", "quarantined")
        assert kept.content(["pickle"])[0] == [2j]


class Unwritable:
    """A result whose own form for JSON fails."""

    def __json__(self) -> Any:
        raise KeyError


def test_a_result_that_cannot_be_written_is_recorded_as_done(bench: Bench) -> None:
    """Celery reports it as a failure; the record still says that the effect took place."""

    def body(self: Any) -> Unwritable:
        bench.ran.append(1)
        return Unwritable()

    task = bench.task(body)
    task.apply_async(task_id="job", ignore_result=True)
    bench.work()

    [key] = task.records.scan()
    assert task.records.peek(key).state == "D"


def test_a_thread_of_the_bodys_own_is_told_that_its_lease_is_local(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A lease that is never lost must not be taken for the execution's in silence."""

    def body(self: Any) -> None:
        thread = Thread(target=lambda: bench.ran.append(self.lease.token))
        thread.start()
        thread.join()
        bench.ran.append(self.lease.token > 1)

    bench.task(body).delay()
    bench.work()

    assert bench.ran == [1, True]
    assert "pass it on" in caplog.text
