"""What guards and retries write onto the spans of Celery's own instrumentation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tenacity import wait_none

from reliable_tasks import IdempotentTask, UniqueTask, retry_task, signals
from reliable_tasks.contrib.opentelemetry import instrument
from reliable_tasks.leases import keeper
from reliable_tasks.stores.memory import MemoryStore

LEASE_MS = 60_000


class Traced:
    """An app on a store in memory, and the spans that its deliveries and callers leave."""

    def __init__(self, app: Celery, store: MemoryStore) -> None:
        self.app, self.store = app, store
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def deliver(self, task: Any, *args: Any, task_id: str | None = None) -> ReadableSpan:
        """Run a delivery as a worker's pool does, and return its span."""
        task_id = task_id or str(uuid4())
        deliver(self.app, task, task_id, args)
        [span] = self.spans("run/")
        self.exporter.clear()
        return span

    def spans(self, first: str) -> list[ReadableSpan]:
        """Return the finished spans whose names begin so."""
        return [each for each in self.exporter.get_finished_spans() if each.name.startswith(first)]

    def claim(self, key: str, *, job: str, lease_ms: int = LEASE_MS) -> Any:
        """Be another delivery that holds the key."""
        return self.store.claim(
            key, delivery=str(uuid4().int >> 66), job=job, line=0, lease_ms=lease_ms,
            horizon_ms=LEASE_MS, max_crashes=3,
        )  # fmt: skip


def deliver(app: Celery, task: Any, task_id: str, args: Any) -> Any:
    headers = task._stamped(args, {}, task_id, None, None, {})
    request = {
        "id": task_id, "task": task.name, "retries": 0, "args": args, "kwargs": {},
        "delivery_info": {"exchange": "", "routing_key": "celery", "redelivered": False},
        "headers": headers, "hostname": "here", "is_eager": False, "called_directly": False,
        "timelimit": [None, None], "root_id": task_id, "properties": {},
    }  # fmt: skip
    tracer = build_tracer(task.name, app.tasks[task.name], app=app, hostname="here")
    return tracer(task_id, args, {}, request)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    """Celery's instrumentation and ours, for one test."""
    for name in signals.__all__:
        signal = getattr(signals, name)
        monkeypatch.setattr(signal, "receivers", list(signal.receivers))
    store = MemoryStore()
    app = Celery("traced", broker="memory://", set_as_current=False)
    app.conf.update(reliable_tasks_store=store, reliable_tasks_lease_seconds=LEASE_MS / 1_000)
    traced = Traced(app, store)
    CeleryInstrumentor().instrument(tracer_provider=traced.provider)
    instrument()
    instrument()
    yield traced
    CeleryInstrumentor().uninstrument()
    app.close()  # not its pool, which every app on memory:// shares


@pytest.fixture
def charge(traced: Traced) -> Any:
    """A task with a key."""

    @traced.app.task(base=IdempotentTask, name="charge", idempotency_key=("order",))
    def charge(order: str) -> str:
        return order

    return charge


def ours(span: ReadableSpan) -> dict[str, Any]:
    """Return our attributes of a span, without durations."""
    found = {
        name.removeprefix("reliable_tasks."): value
        for name, value in (span.attributes or {}).items()
        if name.startswith("reliable_tasks.")
    }
    assert all(found.pop(name, 0.0) >= 0 for name in ("claim_seconds", "settle_seconds"))
    return found


def events(span: ReadableSpan) -> list[tuple[str, dict[str, Any]]]:
    """Return our events of a span."""
    return [
        (
            event.name.removeprefix("reliable_tasks."),
            {
                name.removeprefix("reliable_tasks."): value
                for name, value in (event.attributes or {}).items()
            },
        )
        for event in span.events
        if event.name.startswith("reliable_tasks.")
    ]


def key_of(task: Any, *args: Any) -> str:
    header = task._header_of(args, {}, "a", None)
    return f"rt1::{task.name}:{header.key_digest}"


def test_an_execution_is_described(traced: Traced, charge: Any) -> None:
    """Its key as a digest, its attempt, its token, the store's answer and the outcome."""
    span = traced.deliver(charge, "order-17")

    record = traced.store.peek(key_of(charge, "order-17"))
    assert record is not None
    assert ours(span) == {
        "key_digest": key_of(charge, "order-17").rpartition(":")[2],
        "answer": "granted",
        "attempt": 1,
        "crashes": 0,
        "token": record.token,
        "state": "done",
    }
    assert events(span) == []
    assert "order-17" not in str(ours(span))


def test_a_replay_is_an_event(traced: Traced, charge: Any) -> None:
    """A duplicate that gets the stored result says so, and has no token."""
    traced.deliver(charge, "order-17")

    span = traced.deliver(charge, "order-17")

    assert events(span) == [("replayed", {"state": "done", "same_job": False})]
    assert ours(span)["answer"] == "finished"
    assert "token" not in ours(span)


def test_a_deferral_is_an_event(traced: Traced, charge: Any) -> None:
    """A duplicate that waits says for how long; its successor is published within its span."""
    traced.claim(key_of(charge, "order-17"), job="other")

    deliver(traced.app, charge, "mine", ("order-17",))

    [span] = traced.spans("run/")
    [(name, values)] = events(span)
    assert name == "deferred"
    assert 0 < values["wait_seconds"] <= LEASE_MS / 1_000
    [successor] = traced.spans("apply_async/")
    assert successor.parent is not None
    assert successor.parent.span_id == span.context.span_id


def test_a_takeover_tells_of_crashes(traced: Traced, charge: Any) -> None:
    """An execution after one that died knows it."""
    key = key_of(charge, "order-17")
    traced.claim(key, job="mine", lease_ms=1)
    threading.Event().wait(0.01)

    span = traced.deliver(charge, "order-17", task_id="mine")

    assert ours(span)["crashes"] == 1


def test_a_quarantine_is_an_event(traced: Traced) -> None:
    """A job that ended its process too often is refused, with the number of its deaths."""

    @traced.app.task(base=IdempotentTask, name="poison", idempotency_key=("order",), max_crashes=1)
    def poison(order: str) -> None: ...

    traced.claim(key_of(poison, "order-17"), job="mine", lease_ms=1)
    threading.Event().wait(0.01)

    span = traced.deliver(poison, "order-17", task_id="mine")

    assert events(span) == [("quarantined", {"crashes": 1})]
    assert ours(span)["answer"] == "poisoned"


def test_a_lost_lease_is_an_event_of_its_own_span(traced: Traced) -> None:
    """The thread that renews leases learns of a loss; the span of the execution has it."""

    def lose(key: str) -> None:
        traced.store.forget(key)
        traced.claim(key, job="other")
        renewing = threading.Thread(target=keeper.renew_all)
        renewing.start()
        renewing.join()

    @traced.app.task(base=IdempotentTask, name="slow", idempotency_key=("order",), bind=True)
    def slow(self: Any, order: str) -> None:
        tokens.append(self.lease.token)
        lose(self.lease.key)

    tokens: list[int] = []
    deliver(traced.app, slow, "mine", ("order-17",))

    [span] = traced.spans("run/")
    assert events(span)[0] == ("lease_lost", {"token": tokens[0]})


def test_a_retry_is_an_event(traced: Traced) -> None:
    """An attempt that is followed by another says after what error, and when."""

    @traced.app.task(base=IdempotentTask, name="fetch")
    @retry_task(on=OSError, attempts=2, wait=wait_none())
    def fetch() -> None:
        raise OSError("a secret")

    span = traced.deliver(fetch)

    assert events(span) == [("retrying", {"attempt": 1, "wait_seconds": 0.0, "error": "OSError"})]
    assert ours(span)["state"] == "retrying"


def test_a_job_that_is_given_up_is_an_event(traced: Traced) -> None:
    """The last attempt says that none follows, and why."""

    @traced.app.task(base=IdempotentTask, name="fetch")
    @retry_task(on=OSError, attempts=1)
    def fetch() -> None:
        raise OSError("a secret")

    span = traced.deliver(fetch)

    assert events(span) == [("given_up", {"attempt": 1, "error": "OSError", "reason": "attempts"})]
    assert ours(span)["state"] == "failed"


def test_a_call_that_publishes_nothing_is_an_event_of_the_caller(traced: Traced) -> None:
    """Where a unique task is called while an equal job is queued, the caller's span says so."""

    @traced.app.task(base=UniqueTask, name="refresh")
    def refresh(shop: int) -> None: ...

    refresh.delay(1)
    with traced.provider.get_tracer("web").start_as_current_span("request"):
        refresh.delay(1)

    [span] = traced.spans("request")
    assert events(span) == [("deduplicated", {"reason": "duplicate"})]


def test_without_a_span_nothing_happens(traced: Traced, charge: Any) -> None:
    """An app that is not traced runs as it does."""
    CeleryInstrumentor().uninstrument()

    assert deliver(traced.app, charge, "mine", ("order-17",)).retval == "order-17"

    assert traced.exporter.get_finished_spans() == ()
    assert not trace.get_current_span().is_recording()
    CeleryInstrumentor().instrument(tracer_provider=traced.provider)
