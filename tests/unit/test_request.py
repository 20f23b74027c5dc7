"""What a worker's main process does with a message before, and instead of, running it."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from types import SimpleNamespace
from typing import Any
from uuid import uuid4
from weakref import WeakSet

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery
from celery.exceptions import Ignore, TimeLimitExceeded
from celery.worker import state as worker_state

from reliable_tasks import IdempotentTask
from reliable_tasks.core.records import Granted, Outcome, State
from reliable_tasks.request import GuardedRequest, drain_active, key_of_request
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing.clock import ManualClock

PAST, FUTURE = "2020-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"


class Place:
    """A task, its store, and what the main process makes of its messages."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)
        self.app = Celery("main", broker="memory://", backend="cache+memory://")
        self.task = self.app.task(
            base=IdempotentTask, store=self.store, idempotency_key=_key, shared=False
        )(work)

    def request(self, order: Any = 1, *, expires: str | None = PAST) -> Any:
        """Receive a message of a producer that has only the task's name."""
        job = str(uuid4())
        message: Any = SimpleNamespace(
            headers={"id": job, "task": self.task.name, "expires": expires, "lang": "py"},
            body=b"", payload=([order], {}, {}), properties={}, delivery_info={},
            content_type="application/json", content_encoding="utf-8",
        )  # fmt: skip
        return GuardedRequest(message, app=self.app, task=self.task)

    def begin(self, request: Any) -> int:
        """Let the request's job hold its key, elsewhere."""
        answer = self.store.claim(
            key_of_request(request), delivery=str(uuid4()), job=request.id, line=0,
            lease_ms=1_000, horizon_ms=60_000, max_crashes=3,
        )  # fmt: skip
        assert isinstance(answer, Granted)
        return answer.token

    def settle(self, request: Any, token: int, state: State) -> None:
        """Let it end."""
        self.store.settle(
            key_of_request(request), token=token, job=request.id, line=0,
            outcome=Outcome(state, b"1", 1_000), horizon_ms=60_000,
        )  # fmt: skip


def _key(order: Any) -> str:
    return f"order {order + 0}"


def work(order: Any) -> Any:
    return order


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.app.close()
    worker_state.revoked.clear()


def test_a_message_expires_before_its_job_has_begun(place: Place) -> None:
    """Celery's own meaning of `expires` stands."""
    assert place.request().maybe_expire()
    assert not place.request(expires=FUTURE).maybe_expire()


@pytest.mark.parametrize("how", [State.RUNNING, State.DONE, State.FAILED])
def test_a_job_that_has_begun_does_not_expire(place: Place, how: State) -> None:
    """A late copy is the guard's: reported as revoked, it would fail the job's chord."""
    request = place.request()
    token = place.begin(request)
    if how is not State.RUNNING:
        place.settle(request, token, how)

    assert not request.maybe_expire()


def test_a_job_that_has_ended_does_not_expire_when_its_key_is_another_jobs(place: Place) -> None:
    """What is remembered of a job beside the record's own counts too."""
    first, second = place.request(), place.request()
    place.settle(first, place.begin(first), State.FAILED)
    place.clock.advance(2)
    place.begin(second)

    assert not first.maybe_expire()
    assert not second.maybe_expire()
    assert place.request().maybe_expire()


@pytest.mark.parametrize("how", [State.RETRYING, State.IDLE])
def test_a_job_that_waits_to_run_again_expires(place: Place, how: State) -> None:
    """A retry that is too late is not run, as in plain Celery."""
    request = place.request()
    place.settle(request, place.begin(request), how)

    assert request.maybe_expire()


def test_a_key_that_cannot_be_made_does_not_end_the_worker(place: Place) -> None:
    """Arguments that the key's own function chokes on are the task's trouble, later."""
    request = place.request("no number")

    assert request.maybe_expire()
    request._announce_revoked("expired", False, None, True)


@pytest.mark.parametrize("how", [State.DONE, State.FAILED])
def test_a_limit_that_strikes_after_the_outcome_gives_the_message_back(
    place: Place, how: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hangs on a job is not lost because its callbacks took it past its time."""
    request = place.request(expires=None)
    place.settle(request, place.begin(request), how)
    rejected: list[bool] = []
    monkeypatch.setattr(request, "_on_reject", lambda *_: rejected.append(True))
    monkeypatch.setattr(request, "_on_ack", lambda *_: pytest.fail("acknowledged"))

    request.on_failure(time_is_over())
    request.on_timeout(False, 3)

    assert rejected == [True]
    assert place.task.AsyncResult(request.id).state == "PENDING"


@pytest.mark.parametrize("is_running", [True, False])
def test_a_limit_that_strikes_before_the_outcome_ends_the_job(
    place: Place, is_running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that ran out of time has failed; so has one that was closed meanwhile."""
    request = place.request(expires=None)
    token = place.begin(request)
    if not is_running:
        place.settle(request, token, State.DONE)
        place.store.close(key_of_request(request), job=request.id, horizon_ms=60_000)
    acknowledged: list[bool] = []
    monkeypatch.setattr(request, "_on_ack", lambda *_: acknowledged.append(True))

    request.on_timeout(False, 3)

    assert acknowledged == [True]


def test_a_limit_ends_the_job_before_anybody_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A main process that dies after it has stored the failure leaves no job that may run."""
    request = place.request(expires=None)
    place.begin(request)
    states: list[Any] = []

    def note(*_: Any, **__: Any) -> None:
        record = place.store.peek(key_of_request(request))
        assert record is not None
        states.append((record.state, record.closed))

    monkeypatch.setattr(place.task.backend, "mark_as_failure", note)
    monkeypatch.setattr(request, "_on_ack", note)

    request.on_failure(time_is_over())

    assert set(states) == {(State.FAILED, True)}


def time_is_over() -> ExceptionInfo:
    try:
        raise TimeLimitExceeded(3)  # noqa: TRY301
    except TimeLimitExceeded:
        return ExceptionInfo()


@pytest.fixture
def two_copies(place: Place) -> Iterator[tuple[Any, Any]]:
    """One copy of a job that runs in a child, and one that waits in the same worker."""
    running, waiting = place.request(expires=None), place.request(expires=None)
    waiting.id = running.id
    for each in (running, waiting):
        worker_state.task_reserved(each)
    running.on_accepted(4711, monotonic())
    yield running, waiting
    for each in (running, waiting):
        worker_state.task_ready(each)


def test_terminate_reaches_the_copy_that_runs(two_copies: tuple[Any, Any]) -> None:
    """A revoke with terminate finds the copy that came last; it is the job that has to end."""
    terminated: list[int] = []
    pool = SimpleNamespace(terminate_job=lambda pid, _: terminated.append(pid))

    worker_state.requests[two_copies[0].id].terminate(pool)

    assert terminated == [4711]


def test_a_copy_that_leaves_does_not_hide_the_one_that_runs(two_copies: tuple[Any, Any]) -> None:
    """A deferred copy is over, and the job can still be terminated."""
    running, waiting = two_copies
    try:
        raise Ignore  # noqa: TRY301
    except Ignore:
        waiting.on_failure(ExceptionInfo())

    assert worker_state.requests[running.id] is running


class Changing(WeakSet[Any]):
    """A set, of the kind that Celery has, that changes under the first look."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        self.looks += 1
        if self.looks == 1:
            raise RuntimeError("Set changed size during iteration")
        return super().__iter__()


def test_a_shutdown_is_announced_while_jobs_begin(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of the pool begin jobs while the main thread looks at those that run."""
    request = place.request(expires=None)
    place.begin(request)
    monkeypatch.setattr(worker_state, "active_requests", Changing({request}))

    drain_active()

    record = place.store.peek(key_of_request(request))
    assert record is not None
    assert record.draining
