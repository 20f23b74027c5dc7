"""`publish_many` on real brokers: the same messages, together, and what a lost broker leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, Task, group, signals
from celery._state import _task_stack
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from reliable_tasks import IdempotentTask, publish_many
from reliable_tasks.many import BATCH
from reliable_tasks.testing import Database, Server, eventually

LATER = datetime(2100, 1, 1, tzinfo=UTC)
QUEUES = [
    Queue("celery"),
    Queue("bulk"),
    Queue("topical", Exchange("topics", type="topic"), routing_key="topic.#"),
]


def make_app(database: Database, **settings: Any) -> Celery:
    """An app on *database* whose tasks nobody runs."""
    app = Celery("many", broker=database.url, set_as_current=False)
    routes = {"special": {"queue": "bulk"}}
    app.conf.update({"task_queues": QUEUES, "task_routes": routes, **settings})
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.05}

    @app.task(name="plain", shared=False)
    def plain(x: Any, y: Any = 1) -> None:
        """Nothing."""

    @app.task(name="guarded", base=IdempotentTask, shared=False)
    def guarded(x: Any, y: Any = 1) -> None:
        """Nothing."""

    @app.task(name="keyed", base=IdempotentTask, shared=False, idempotency_key=("x",))
    def keyed(x: Any, y: Any = 1) -> None:
        """Nothing."""

    @app.task(
        name="special",
        bind=True,
        shared=False,
        serializer="pickle",
        time_limit=7,
        expires=LATER,
        ignore_result=True,
    )
    def special(self: Any, x: Any, y: Any = 1) -> None:
        """Nothing."""

    return app


@pytest.fixture
def app(database: Database) -> Iterator[Celery]:
    """An app without results: a result backend that dies holds every publish up by itself."""
    app = make_app(database)
    yield app
    app.close()


def calls(app: Celery) -> list[Any]:
    """Return signatures in every shape that reaches a message."""
    link = app.tasks["plain"].s(9).set(task_id="a link")
    options: list[dict[str, Any]] = [
        {},
        {"link": [link]},
        {"link_error": [link]},
        {"eta": LATER},
        {"expires": LATER},
        {"queue": "bulk"},
        {"queue": "topical", "routing_key": "topic.one"},
        {"headers": {"who": "me"}},
        {"priority": 6},
        {"serializer": "pickle"},
        {"compression": "zlib"},
        {"ignore_result": True},
        {"shadow": "another"},
        {"time_limit": 5, "soft_time_limit": 4},
        {"reply_to": "someone"},
        {"stamped_headers": ["stamp"], "stamp": "x"},
        {"group_id": "group", "group_index": 3},
        {"root_id": "root", "parent_id": "parent"},
    ]
    tasks = [app.tasks[name] for name in ("plain", "guarded", "keyed", "special")]
    found = [
        task.s(number).set(task_id=f"{task.name} {number}", **each)
        for task in tasks
        for number, each in enumerate(options)
    ]
    found.append(app.signature("elsewhere", args=(1,), kwargs={"y": 2}, task_id="elsewhere"))
    found.append(app.tasks["keyed"].s(7).set(task_id="by call", idempotency_key="mine"))
    return found


def sent(database: Database) -> list[dict[str, Any]]:
    """Take all messages from the broker, but for what no two of them share."""
    with database.client() as client:
        queues = sorted(key for key in client.scan_iter("*") if client.type(key) == b"list")
        raw = [each for queue in queues for each in reversed(client.lrange(queue, 0, -1))]
        for queue in queues:
            client.delete(queue)
    messages = [json.loads(each) for each in raw]
    for message in messages:
        message["properties"].pop("delivery_tag")
        if "expiration" in message["properties"]:  # counted from the moment of publishing
            message["properties"]["expiration"] = "some"
    return messages


def die(server: Server) -> None:
    """Kill a server, and wait until it is gone."""
    server.kill()
    eventually(lambda: not server.is_running)


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    """What receivers of Celery's signals of publishing are told."""
    heard: list[Any] = []

    def before(**told: Any) -> None:
        expiration = told["properties"].get("expiration")  # counted from this moment
        properties = {**told["properties"], "expiration": expiration is not None}
        heard.append(("before", {**told, "properties": properties}))

    def after(**told: Any) -> None:
        heard.append(("after", told))

    signals.before_task_publish.connect(before, weak=False, dispatch_uid="before")
    signals.after_task_publish.connect(after, weak=False, dispatch_uid="after")
    yield heard
    signals.before_task_publish.disconnect(dispatch_uid="before")
    signals.after_task_publish.disconnect(dispatch_uid="after")


@pytest.mark.hooks
class TestSame:
    """What `apply_async` of each signature would publish, `publish_many` does."""

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"task_routes": None},
            {"task_send_sent_event": True},
            {"task_protocol": 1},
            {"task_ignore_result": True, "task_serializer": "pickle", "task_routes": None},
        ],
    )
    def test_messages(self, database: Database, settings: dict[str, Any]) -> None:
        """Each message is the same to the byte, but for its delivery tag."""
        app = make_app(database, result_backend=database.url, **settings)
        for each in calls(app):
            each.apply_async()
        one_by_one = sent(database)

        publications = publish_many(calls(app))

        assert [each.error for each in publications] == [None] * len(publications)
        for message, expected in zip(sent(database), one_by_one, strict=True):
            assert message == expected
        app.close()

    def test_signals(self, app: Celery, heard: list[Any]) -> None:
        """Receivers are told the same, in the same order."""
        for each in calls(app):
            each.apply_async()
        one_by_one = list(heard)
        heard.clear()

        publish_many(calls(app))

        assert [name for name, _ in heard] == [name for name, _ in one_by_one]
        for (_, told), (_, expected) in zip(heard, one_by_one, strict=True):
            assert told == expected

    def test_countdowns(self, app: Celery, database: Database) -> None:
        """A countdown is counted from the moment at which its own message is made."""
        before = datetime.now(UTC)
        publish_many([app.tasks["plain"].s(1).set(countdown=60, expires=90)])
        [message] = sent(database)
        for name, delay in (("eta", 60), ("expires", 90)):
            at = datetime.fromisoformat(message["headers"][name])
            assert timedelta(0) <= at - before - timedelta(seconds=delay) < timedelta(seconds=10)

    @pytest.mark.parametrize("inherits", [False, True])
    def test_from_a_task(self, database: Database, inherits: bool) -> None:
        """Messages that a task's body publishes say where they come from, and are its children."""
        app = make_app(database, task_inherit_parent_priority=inherits)
        parent = app.tasks["plain"]

        def published(publish: Callable[[list[Any]], Any]) -> tuple[Any, Any]:
            request = {"id": "parent", "root_id": "root", "called_directly": False}
            parent.push_request(**request, delivery_info={"priority": 3}, children=[])
            _task_stack.push(parent)
            try:
                publish(calls(app))
                return sent(database), [each.id for each in parent.request.children]
            finally:
                _task_stack.pop()
                parent.pop_request()

        expected = published(lambda signatures: [each.apply_async() for each in signatures])
        assert expected[1]
        assert published(publish_many) == expected
        app.close()

    def test_wrapped(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        """What an agent puts around Celery's calls is called each time."""
        wrapped: list[str] = []
        for owner, name in ((Task, "apply_async"), (Celery, "send_task")):
            original = getattr(owner, name)

            def wrapper(*args: Any, name: str = name, call: Any = original, **options: Any) -> Any:
                wrapped.append(name)
                return call(*args, **options)

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, wrapper)
                publish_many([app.tasks["plain"].s(1), app.tasks["guarded"].s(1)])

        assert wrapped == ["apply_async"] * 2 + ["send_task"] * 2


def test_a_batch_leaves_together(app: Celery, database: Database) -> None:
    """Where the transport can, no message is sent before all of its batch are there."""
    with app.producer_or_acquire() as producer:
        if not getattr(producer, "supports_batch_publish", False):
            pytest.skip("this kombu publishes one by one")
    waiting: list[int] = []
    with database.client() as client:

        def count(**_: Any) -> None:
            waiting.append(client.llen("celery"))

        signals.after_task_publish.connect(count, weak=False, dispatch_uid="count")
        publish_many(app.tasks["plain"].s(number) for number in range(10))
        signals.after_task_publish.disconnect(dispatch_uid="count")

    assert waiting == [0] * 10
    assert len(sent(database)) == 10


def test_connections_that_retry(database: Database) -> None:
    """What may be sent twice by the client itself is published one by one."""
    app = make_app(database, broker_transport_options={"retry_on_timeout": True})
    publications = publish_many(app.tasks["plain"].s(number) for number in range(10))
    assert [message["headers"]["id"] for message in sent(database)] == [
        each.result.id for each in publications
    ]
    app.close()


class TestBrokerLost:
    """A broker that dies in the middle: each job says whether it was published."""

    def test_between_batches(self, app: Celery, server: Server, database: Database) -> None:
        """Batches before are published; later ones have an error, and come again as they are."""

        def signatures() -> Iterator[Any]:
            for number in range(3 * BATCH):
                if number == BATCH:
                    die(server)
                yield app.tasks["guarded"].s(number)

        publications = publish_many(signatures())
        server.ensure_running()

        failed = [each for each in publications if each.error]
        assert len(failed) == 2 * BATCH
        assert publish_many(each.signature for each in failed)
        ids = [message["headers"]["id"] for message in sent(database)]
        assert ids[:BATCH] == [each.result.id for each in publications[:BATCH]]
        assert len(ids) == 3 * BATCH

    def test_in_a_batch(self, app: Celery, server: Server, database: Database) -> None:
        """Messages that were under way may have arrived or not."""

        def kill(**told: Any) -> None:
            if told["body"][0] == (5,):
                die(server)

        publish_many([app.tasks["plain"].s(0)])
        signals.after_task_publish.connect(kill, weak=False, dispatch_uid="kill")
        publications = publish_many(app.tasks["plain"].s(number) for number in range(1, 10))
        signals.after_task_publish.disconnect(dispatch_uid="kill")
        server.ensure_running()

        with app.producer_or_acquire() as producer:
            is_batch = getattr(producer, "supports_batch_publish", False)
        if is_batch:
            assert [each.is_uncertain for each in publications] == [True] * 9
            assert len(sent(database)) == 1
            again = publish_many(each.signature for each in publications)
            ids = [each.signature.id for each in publications]
            assert [each.result.id for each in again] == ids
        else:
            assert [each.error is None for each in publications] == [True] * 5 + [False] * 4
            assert len(sent(database)) == 6

    def test_from_the_start(self, app: Celery, server: Server, database: Database) -> None:
        """Nothing was sent, and all say so, after one round of retries."""
        die(server)
        publications = publish_many(app.tasks["plain"].s(number) for number in range(10))
        server.ensure_running()

        assert {type(each.error) for each in publications} == {OperationalError}
        assert not any(each.is_uncertain for each in publications)
        assert sent(database) == []


def test_result_backend_lost(database: Database) -> None:
    """The first job that waits for it in vain is the last one that is tried."""
    app = make_app(database, result_backend="redis://localhost:1/0")
    app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 1}}
    publications = publish_many(app.tasks["plain"].s(number) for number in range(BATCH))
    assert {str(each.error) for each in publications} == {str(publications[0].error)}
    assert sent(database) == []
    app.close()


def test_part_of_a_group(app: Celery, database: Database) -> None:
    """A group with a member that cannot be sent is an error of that group alone."""
    plain = app.tasks["plain"]
    first, wrong, last = publish_many(
        [plain.s(1), group(plain.s(2), plain.s(object())), plain.s(3)]
    )
    assert (first.error, last.error) == (None, None)
    assert wrong.error is not None
    assert [message["headers"]["argsrepr"] for message in sent(database)][-1] == "(3,)"
