"""Messages that a worker can do nothing with are kept before Celery drops them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Queue
from kombu.message import Message

from reliable_tasks import StoreUnavailable
from reliable_tasks.deadletter.refused import RefusalStep
from reliable_tasks.deadletter.shelves import find
from reliable_tasks.stores.memory import MemoryStore


class FakeConsumer:
    """A worker's consumer that notes what Celery would do."""

    hostname = "unit@here"

    def __init__(self, app: Celery) -> None:
        self.app, self.dropped = app, list[str]()
        self.task_consumer = SimpleNamespace(on_decode_error=self.on_decode_error)

    def on_unknown_task(self, body: Any, message: Any, error: Any) -> None:
        self.dropped.append("unknown task")

    def on_invalid_task(self, body: Any, message: Any, error: Any) -> None:
        self.dropped.append("invalid task")

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self.dropped.append("unknown message")

    def on_decode_error(self, message: Any, error: Any) -> None:
        self.dropped.append("undecodable")


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("refused", broker="memory://", set_as_current=False)
    app.conf.reliable_tasks_store = MemoryStore()
    yield app
    app.close()


@pytest.fixture
def consumer(app: Celery) -> FakeConsumer:
    consumer = FakeConsumer(app)
    step = RefusalStep(consumer)
    for _ in range(2):  # a second time after a lost connection
        step.start(consumer)
    return consumer


def message(headers: Any, body: Any = b"[[], {}, {}]", exchange: str = "") -> Any:
    return SimpleNamespace(
        headers=headers,
        body=body,
        properties={"correlation_id": "job", "delivery_tag": "tag"},
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={"exchange": exchange, "routing_key": "jobs"},
        errors=[],
    )


KNOWN = {"task": "shop.pay", "id": "job", "x-death": [1]}


@pytest.mark.parametrize(
    ("answer", "arguments", "reason"),
    [
        ("on_unknown_task", (None, KeyError("shop.pay")), "does not know the task shop.pay"),
        ("on_invalid_task", (None, ValueError("no pickle")), "refuses it: no pickle"),
        ("on_unknown_message", (None,), "no task's message"),
        ("on_decode_error", (UnicodeError("utf-8"),), "cannot be read: utf-8"),
    ],
)
def test_kept_then_dropped(
    app: Celery, consumer: FakeConsumer, answer: str, arguments: Any, reason: str
) -> None:
    """Each kind once, whole, before Celery's own answer."""
    at = 0 if answer == "on_decode_error" else 1
    getattr(consumer, answer)(*arguments[:at], message(KNOWN), *arguments[at:])

    [kept] = find(app).kept
    letter = kept.letter
    assert (letter.kind, letter.task, letter.id, letter.queue) == (
        "refused",
        "shop.pay",
        "job",
        "jobs",
    )
    assert reason in letter.reason
    assert letter.content(["json"]) == [[], {}, {}]
    assert (letter.headers, letter.properties) == (
        {"task": "shop.pay", "id": "job"},
        {"correlation_id": "job"},
    )
    assert len(consumer.dropped) == 1


def test_what_has_no_name(app: Celery, consumer: FakeConsumer) -> None:
    """What is no message of Celery's is kept under a name made of it, a text too."""
    for body in ("hello", b"hello", b"other"):
        consumer.on_unknown_message(None, message(None, body))

    kept = [each.letter for each in find(app).kept]
    assert {letter.body for letter in kept} == {b"hello", b"other"}
    assert all(letter.id.startswith("unnamed-") for letter in kept)


def packed(body: bytes) -> Message:
    """Return a message whose publisher has compressed it."""
    headers = {**KNOWN, "compression": "application/x-gzip"}
    return Message(body, headers=headers, content_type="application/json", content_encoding="utf-8")


def test_what_was_compressed(app: Celery, consumer: FakeConsumer) -> None:
    """Kombu has unpacked it; a header that says otherwise would make its replay unreadable."""
    consumer.on_unknown_task(None, packed(zlib.compress(b"[[], {}, {}]")), KeyError())

    [kept] = find(app).kept
    assert kept.letter.content(["json"]) == [[], {}, {}]
    assert "compression" not in kept.letter.headers


def test_what_cannot_be_unpacked(app: Celery, consumer: FakeConsumer) -> None:
    """Kombu's consumer tells of it, and not the worker's; it is kept as it came."""
    message = packed(b"no gzip")
    message._reraise_error(consumer.task_consumer.on_decode_error)

    [kept] = find(app).kept
    assert kept.letter.body == b"no gzip"
    assert kept.letter.headers["compression"] == "application/x-gzip"
    assert consumer.dropped == ["undecodable"]


def test_what_rabbitmq_keeps_itself(app: Celery, consumer: FakeConsumer) -> None:
    """A rejected message goes to the queue's own dead letters; an acknowledged one does not."""
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "jobs.dead"}
    app.conf.task_queues = [Queue("jobs", routing_key="jobs", queue_arguments=arguments)]
    consumer.on_unknown_task(None, message(KNOWN), KeyError())
    assert find(app).kept == []

    consumer.on_decode_error(message(KNOWN), UnicodeError())
    assert len(find(app).kept) == 1


def test_without_a_store(
    app: Celery,
    consumer: FakeConsumer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The worker goes on as it would without us, and says what is lost."""

    def down(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("bury", "down")

    monkeypatch.setattr(app.conf.reliable_tasks_store, "bury", down)
    consumer.on_unknown_task(None, message(KNOWN), KeyError())

    assert consumer.dropped == ["unknown task"]
    assert "a message is refused and not among the dead letters" in caplog.text


@pytest.mark.parametrize(("broker", "takes_part"), [("memory://", False), ("redis://", True)])
def test_only_where_there_is_a_place(broker: str, takes_part: bool) -> None:
    """An app without any Redis works as before."""
    app = Celery("refused", broker=broker, set_as_current=False)
    consumer = FakeConsumer(app)

    assert RefusalStep(consumer).include_if(consumer) is takes_part
    app.close()
