"""What `publish_many` promises without a server: order, and outcomes one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, chain, chord, group
from kombu.exceptions import EncodeError, OperationalError

from reliable_tasks import IdempotentTask, publish_many
from reliable_tasks.many import BATCH


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose broker is in memory, where messages are published one by one."""
    app = Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_default_queue = f"queue-{uuid4()}"
    app.conf.reliable_tasks_store_url = "redis://localhost:1/0"
    yield app
    app.close()


@pytest.fixture
def add(app: Celery) -> Any:
    """A plain task with two arguments."""

    @app.task(name="add", shared=False)
    def add(x: Any, y: Any) -> Any:
        return x + y

    return add


def waiting(app: Celery, queue: str | None = None) -> list[Any]:
    """Take the messages out of a queue."""
    with app.connection_for_read() as connection:
        simple = connection.SimpleQueue(queue or app.conf.task_default_queue)
        try:
            return [simple.get(block=False) for _ in range(simple.qsize())]
        finally:
            simple.close()


def test_one_publication_a_signature_in_order(app: Celery, add: Any) -> None:
    """Each says what became of its own signature, across batches too."""
    signatures = [add.s(number, 1) for number in range(BATCH + 2)]

    publications = publish_many(signatures)

    assert [each.signature for each in publications] == signatures
    assert {each.error for each in publications} == {None}
    sent = [message.headers["id"] for message in waiting(app)]
    assert sent == [each.result.id for each in publications]


def test_draws_a_batch_at_a_time(app: Celery, add: Any) -> None:
    """A generator is not asked for the next batch before the last one is published."""
    seen: list[int] = []

    def signatures() -> Iterator[Any]:
        for number in range(BATCH + 1):
            if number == BATCH:
                seen.append(len(waiting(app)))
            yield add.s(number, 1)

    publish_many(signatures())

    assert seen == [BATCH]


def test_an_error_of_the_generator_is_its_own(app: Celery, add: Any) -> None:
    """It is raised as it is, after the batches before it."""

    def signatures() -> Iterator[Any]:
        yield from (add.s(number, 1) for number in range(BATCH))
        raise LookupError("the caller's")

    with pytest.raises(LookupError, match="the caller's"):
        publish_many(signatures())

    assert len(waiting(app)) == BATCH


class TestOneByOne:
    """What cannot be published has its error, and holds nothing else up."""

    def check(self, app: Celery, publications: list[Any], error: type[Exception]) -> None:
        first, wrong, last = publications
        assert isinstance(wrong.error, error)
        assert (wrong.result, wrong.is_uncertain, wrong.duplicate) == (None, False, False)
        assert [message.headers["id"] for message in waiting(app)] == [
            first.result.id,
            last.result.id,
        ]

    def test_arguments_without_a_serialized_form(self, app: Celery, add: Any) -> None:
        """A message that cannot be written."""
        signatures = [add.s(1, 1), add.s(object(), 1), add.s(2, 1)]
        self.check(app, publish_many(signatures), EncodeError)

    def test_wrong_arguments(self, app: Celery, add: Any) -> None:
        """A call that the task does not take."""
        self.check(app, publish_many([add.s(1, 1), add.s(1), add.s(2, 1)]), TypeError)

    def test_no_key(self, app: Celery, add: Any) -> None:
        """A guarded job whose key cannot be made."""

        @app.task(base=IdempotentTask, shared=False, idempotency_key=lambda x, y: x / 0)
        def keyed(x: int, y: int) -> None:
            """Nothing."""

        signatures = [add.s(1, 1), keyed.s(1, 1), add.s(2, 1)]
        self.check(app, publish_many(signatures), ZeroDivisionError)

    def test_unknown_queue(self, app: Celery, add: Any) -> None:
        """A queue that may not be made by naming it."""
        app.conf.task_create_missing_queues = False
        signatures = [add.s(1, 1), add.s(1, 1).set(queue="typo"), add.s(2, 1)]
        with pytest.raises(KeyError) as unknown:
            signatures[1].apply_async()
        self.check(app, publish_many(signatures), unknown.type)

    def test_no_signature(self, app: Celery, add: Any) -> None:
        """Something else in the list."""
        publications = publish_many([add.s(1, 1), "add", add.s(2, 1)])
        self.check(app, publications, TypeError)
        assert "expected a signature such as task.s(...), got str" in str(publications[1].error)


def test_broker_that_nobody_answers_at(add: Any, app: Celery) -> None:
    """Every job has the error, after one round of the app's publish retries for all."""
    app.conf.broker_url = "redis://localhost:1/0"
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.05}

    publications = publish_many(add.s(number, 1) for number in range(500))

    assert len(publications) == 500
    assert {type(each.error) for each in publications} == {OperationalError}
    assert not any(each.is_uncertain or each.result for each in publications)


def test_tasks_that_are_known_by_name_only(app: Celery) -> None:
    """Signatures of tasks that other programs have are sent as they are."""
    [publication] = publish_many([app.signature("elsewhere", args=(1,))])

    assert publication.error is None
    assert [message.headers["task"] for message in waiting(app)] == ["elsewhere"]


def test_signatures_that_came_as_json(app: Celery, add: Any) -> None:
    """A signature that was written as a mapping is one."""
    app.set_current()
    [publication] = publish_many([dict(add.s(1, 1))])
    assert publication.result.id == waiting(app)[0].headers["id"]


def test_groups_chains_and_chords(app: Celery, add: Any) -> None:
    """Canvas is published as its own `apply_async` would."""
    many = publish_many(
        [
            group(add.s(1, 1), add.s(2, 1)),
            chain(add.s(3, 1), add.s(1)),
            chord([add.s(4, 1), add.s(5, 1)], add.s(1)),
        ]
    )

    assert [each.error for each in many] == [None] * 3
    firsts = [message.payload[0][0] for message in waiting(app) if message.headers["task"] == "add"]
    assert firsts == [1, 2, 3, 4, 5]


def test_eager(app: Celery, add: Any) -> None:
    """Where tasks run at once, these do, and no broker is needed."""
    app.conf.update(task_always_eager=True, broker_url="redis://localhost:1/0")
    assert [each.result.get() for each in publish_many([add.s(1, 1), add.s(2, 1)])] == [2, 3]


def test_apps_side_by_side(app: Celery, add: Any) -> None:
    """Jobs of several apps go to their own brokers."""
    other = Celery("other", broker="memory://", set_as_current=False)
    other.conf.task_default_queue = f"other-{uuid4()}"

    @other.task(name="else", shared=False)
    def otherwise() -> None:
        """Nothing."""

    publish_many([otherwise.s(), add.s(1, 1), otherwise.s()])

    assert [len(waiting(each)) for each in (app, other)] == [1, 2]
    other.close()


def test_connection_of_its_own(app: Celery, add: Any) -> None:
    """A signature that brings a connection is published there."""
    with app.connection_for_write() as connection:
        publish_many([add.s(1, 1).set(connection=connection), add.s(2, 1)])
    assert len(waiting(app)) == 2
