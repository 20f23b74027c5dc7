"""What `publish_many` promises without a server: order, and outcomes one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import getrandbits
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, Task, chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import EncodeError, OperationalError

from reliable_tasks import (
    DuplicateJob,
    IdempotentTask,
    StoreUnavailable,
    UniqueTask,
    publish_many,
)
from reliable_tasks.batch import SharedProducer, Undelivered, shared_producer
from reliable_tasks.many import BATCH
from reliable_tasks.stores.memory import MemoryStore


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

    @pytest.mark.parametrize("given", ["add", {"x": 1}, {"task": None}])
    def test_no_signature(self, app: Celery, add: Any, given: Any) -> None:
        """Something else in the list."""
        publications = publish_many([add.s(1, 1), given, add.s(2, 1)])
        self.check(app, publications, TypeError)
        expected = f"expected a signature such as task.s(...), got {type(given).__name__}, which"
        assert expected in str(publications[1].error)
        assert publications[1].signature == given


def test_broker_that_nobody_answers_at(add: Any, app: Celery) -> None:
    """Every job has the error, after one round of the app's publish retries for all."""
    # kombu keeps one pool an address, and another test may have closed it
    app.conf.broker_url = f"redis://localhost:1/{getrandbits(20)}"
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.05}

    publications = publish_many(add.s(number, 1) for number in range(500))

    assert len(publications) == 500
    assert {type(each.error) for each in publications} == {OperationalError}
    assert not any(each.is_uncertain or each.result for each in publications)


def test_the_callers_time_is_over(app: Celery, add: Any) -> None:
    """A soft time limit that strikes is no error of the job at hand: it ends the call."""

    class Slow(Task):
        def apply_async(self, *args: Any, **options: Any) -> Any:
            raise SoftTimeLimitExceeded

    @app.task(base=Slow, shared=False)
    def slow() -> None:
        """Nothing."""

    with pytest.raises(SoftTimeLimitExceeded):
        publish_many([slow.s(), add.s(1, 1)])
    assert waiting(app) == []


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


class CountingStore(MemoryStore):
    """A store that counts what producers ask it, and is down when told so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []
        self.down: set[str] = set()

    def _ask(self, name: str, count: int) -> None:
        self.asked.append((name, count))
        if name in self.down:
            raise StoreUnavailable(name, "it is down")

    def reserve(self, asks: Any) -> Any:
        self._ask("reserve", len(asks))
        return super().reserve(asks)

    def confirm(self, words: Any) -> Any:
        self._ask("confirm", len(words))
        return super().confirm(words)

    def unreserve(self, key: str, *, job: str) -> Any:
        self._ask("unreserve", 1)
        return super().unreserve(key, job=job)


class TestUnique:
    """Calls of unique tasks, together with others."""

    @pytest.fixture
    def store(self) -> CountingStore:
        """The records of the test's unique tasks."""
        return CountingStore()

    @pytest.fixture
    def refresh(self, app: Celery, store: CountingStore) -> Any:
        """A unique task with one argument."""

        @app.task(name="refresh", base=UniqueTask, store=store, shared=False)
        def refresh(shop: Any) -> None:
            """Nothing."""

        return refresh

    def test_one_round_trip_a_batch(self, add: Any, refresh: Any, store: CountingStore) -> None:
        """All keys of a batch are reserved together, and confirmed together."""
        many = publish_many(
            each for number in range(50) for each in (refresh.s(number), add.s(number, 1))
        )
        assert [each.error for each in many] == [None] * 100
        assert not any(each.duplicate for each in many)
        assert store.asked == [("reserve", 50), ("confirm", 50)]

    def test_duplicates(self, app: Celery, refresh: Any) -> None:
        """Of jobs in the queue and of jobs of the same batch: nothing is published."""
        queued = refresh.delay("queued")

        many = publish_many([refresh.s("queued"), refresh.s("new"), refresh.s("new")])

        assert [each.duplicate for each in many] == [True, False, True]
        assert many[0].result.id == queued.id
        assert many[2].result.id == many[1].result.id
        assert len(waiting(app)) == 2

    def test_duplicates_are_errors_where_the_task_says_so(
        self, app: Celery, store: CountingStore
    ) -> None:
        """`DuplicateJob` is the call's own error."""

        @app.task(base=UniqueTask, store=store, on_duplicate="raise", shared=False)
        def strict(shop: Any) -> None:
            """Nothing."""

        first, second = publish_many([strict.s(1), strict.s(1)])
        assert first.error is None
        assert isinstance(second.error, DuplicateJob)
        assert second.error.job == first.result.id

    def test_awaited_calls_are_published(self, app: Celery, add: Any, refresh: Any) -> None:
        """A call on which something hangs is never suppressed."""
        refresh.delay(1)
        many = publish_many(
            [refresh.s(1).set(link=add.si(1, 1)), chain(refresh.si(1), add.si(1, 1))]
        )
        assert [each.duplicate for each in many] == [False, False]
        assert len(waiting(app)) == 3

    def test_what_is_not_published_is_free(self, refresh: Any, store: CountingStore) -> None:
        """A job that cannot be written reserves nothing afterwards; the others do."""
        many = publish_many([refresh.s(1).set(serializer="none"), refresh.s(2)])

        assert many[0].error is not None
        assert store.asked == [("reserve", 2), ("confirm", 1), ("unreserve", 1)]
        assert not refresh.delay(1).duplicate
        assert refresh.delay(2).duplicate

    def test_duplicate_of_what_was_not_published(self, app: Celery, refresh: Any) -> None:
        """It was not published either, and says so."""
        many = publish_many([refresh.s(1).set(serializer="none"), refresh.s(1), refresh.s(2)])

        assert many[0].error is many[1].error is not None
        assert (many[1].result, many[1].duplicate) == (None, False)
        assert len(waiting(app)) == 1

    def test_duplicate_of_what_is_uncertain(
        self, app: Celery, store: CountingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is uncertain too, also where duplicates are errors."""

        @app.task(base=UniqueTask, store=store, on_duplicate="raise", shared=False)
        def strict(shop: Any) -> None:
            """Nothing."""

        @contextmanager
        def losing(app: Celery) -> Iterator[SharedProducer]:
            with shared_producer(app) as producer:
                yield producer
            raise Undelivered("nobody knows")

        def buffer(self: SharedProducer, body: Any, **options: Any) -> None:
            self.buffered += 1

        monkeypatch.setattr(SharedProducer, "publish", buffer)
        monkeypatch.setattr("reliable_tasks.many.shared_producer", losing)

        first, second = publish_many([strict.s(1), strict.s(1)])

        assert first.is_uncertain
        assert first.signature.id is not None
        assert (second.is_uncertain, second.error) == (True, first.error)

    def test_store_down_at_reserve(
        self, app: Celery, refresh: Any, store: CountingStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Jobs are published without a reservation, and one line says so."""
        store.down = {"reserve"}
        many = publish_many(refresh.s(number) for number in range(5))

        assert [each.error for each in many] == [None] * 5
        assert len(waiting(app)) == 5
        assert len([each for each in caplog.records if "reserve" in each.message]) == 1

    def test_store_down_afterwards(
        self, app: Celery, add: Any, refresh: Any, store: CountingStore
    ) -> None:
        """What was published stays published; nothing is asked of it a thousand times."""
        store.down = {"confirm", "unreserve"}
        lost = [refresh.s(number).set(serializer="none") for number in range(5)]
        many = publish_many([*lost, refresh.s(9)])

        assert many[-1].error is None
        assert store.asked == [("reserve", 6), ("confirm", 1), ("unreserve", 1)]

    def test_eager(self, app: Celery, refresh: Any, store: CountingStore) -> None:
        """Where tasks run at once, nothing is reserved."""
        app.conf.task_always_eager = True
        [publication] = publish_many([refresh.s(1)])
        assert (publication.error, store.asked) == (None, [])

    def test_overridden_apply_async(self, app: Celery, store: CountingStore) -> None:
        """A task class that publishes in its own way is asked to."""
        seen: list[Any] = []

        class Own(UniqueTask):
            abstract = True

            def apply_async(self, *args: Any, **options: Any) -> Any:
                seen.append(args)
                return super().apply_async(*args, **options)

        @app.task(base=Own, store=store, shared=False)
        def own(shop: Any) -> None:
            """Nothing."""

        publish_many([own.s(1)])
        assert len(seen) == 1
