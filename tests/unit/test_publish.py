"""Links have ids before they are sent, and a successor is the same message one hop on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.app.task import Context
from kombu import Exchange, Queue

from reliable_tasks import IdempotentTask
from reliable_tasks.core.header import NAME, Header
from reliable_tasks.delivery import Delivery
from reliable_tasks.publish import (
    freeze,
    longest_wait_ms,
    members,
    publish_successor,
    queue_of,
)
from reliable_tasks.shield import SoftLimitShield


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose addresses nobody answers at."""
    app = Celery("unit", broker="memory://", set_as_current=False)
    app.conf.reliable_tasks_store_url = "redis://localhost:1/0"
    yield app
    app.close()


@pytest.fixture
def task(app: Celery) -> Any:
    """A guarded task."""

    @app.task(base=IdempotentTask, name="add", shared=False)
    def add(first: int = 0, second: int = 0) -> int:
        return first + second

    return add


def ids_of(signature: Any) -> list[Any]:
    return [part["options"].get("task_id") for part in members(signature)]


class TestFreeze:
    """A callback that is sent twice has one id, by which its own guard knows it."""

    def test_nothing(self) -> None:
        """No links stay no links."""
        assert freeze(None) is None
        assert freeze([]) == []

    @pytest.mark.parametrize("shape", ["one", "chain", "group", "chord", "nested"])
    def test_every_task_gets_an_id(self, task: Any, shape: str) -> None:
        """Every task has an id of its own, however deep it stands."""
        a, b, c = task.s(1), task.s(2), task.s(3)
        signature = {
            "one": a,
            "chain": chain(a, b),
            "group": group(a, b),
            "chord": chord([a, b], c),
            "nested": chain(a, chord([chain(b, c)], task.s(4))),
        }[shape]

        ids = ids_of(freeze(signature))

        assert all(ids)
        assert len(set(ids)) == len(ids)

    def test_an_id_is_kept(self, task: Any) -> None:
        """An id that the caller chose, or one of a flow that is frozen already, stays."""
        frozen = freeze(task.s(1).set(task_id="mine"))

        assert frozen["options"]["task_id"] == "mine"
        assert ids_of(freeze(frozen)) == ids_of(frozen)

    def test_the_callers_signature_stays_as_it_was(self, task: Any) -> None:
        """Two calls with one signature as their link have two callbacks."""
        link = task.s(1)

        first, second = freeze([link]), freeze([link])

        assert "task_id" not in link["options"]
        assert ids_of(first[0]) != ids_of(second[0])

    def test_links_are_frozen_at_publish(
        self, app: Celery, task: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What apply_async publishes has the ids in it, for link and link_error."""
        sent = []
        monkeypatch.setattr(app, "send_task", lambda *_, **options: sent.append(options))

        task.apply_async((1,), link=task.s(2), link_error=[task.s(3), task.s(4)])

        links = [sent[0]["link"], *sent[0]["link_error"]]
        assert len({link["options"]["task_id"] for link in links}) == 3


MESSAGE = {
    "id": "job",
    "args": [1],
    "kwargs": {"second": 2},
    "retries": 2,
    "headers": {
        "tenant": "a",
        NAME: Header("job", hop=3).encode(),
        "x-death": [{"queue": "celery_delayed_0"}],
        "x-first-death-queue": "celery_delayed_0",
        "x-last-death-reason": "expired",
        "x-delivery-count": 1,
    },
    "callbacks": [{"task": "add", "args": [5]}],
    "errbacks": [{"task": "add", "args": [6]}],
    "chain": [{"task": "add", "args": [7]}],
    "chord": {"task": "add", "args": [8]},
    "group": "group-id",
    "group_index": 4,
    "root_id": "root",
    "parent_id": "parent",
    "delivery_info": {"routing_key": "celery", "priority": 6},
    "timelimit": [20, 10],
}


@pytest.fixture
def successor(app: Celery, task: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is published as the successor of `MESSAGE`, in 1.5 seconds."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(
        app,
        "send_task",
        lambda _, args, kwargs, **options: sent.append(
            {"args": args, "kwargs": kwargs, **options}
        ),
    )  # fmt: skip
    task.push_request(**MESSAGE)
    publish_successor(task, task.request, Header("job", hop=3), 1_500)
    task.pop_request()
    return sent[0]


class TestSuccessor:
    """A deferred message goes on as it was."""

    @pytest.mark.parametrize(
        ("option", "expected"),
        [
            ("task_id", "job"),
            ("args", (1,)),
            ("kwargs", {"second": 2}),
            ("retries", 2),
            ("chain", MESSAGE["chain"]),
            ("chord", MESSAGE["chord"]),
            ("group_id", "group-id"),
            ("group_index", 4),
            ("root_id", "root"),
            ("parent_id", "parent"),
            ("time_limit", 20),
            ("soft_time_limit", 10),
            ("countdown", 1.5),
        ],
    )
    def test_keeps(self, successor: dict[str, Any], option: str, expected: Any) -> None:
        """Id, arguments, retries and all that hangs on the message are the same."""
        assert successor[option] == expected

    def test_keeps_callbacks(self, successor: dict[str, Any]) -> None:
        """The callbacks are the same tasks."""
        assert [link["args"] for link in successor["link"]] == [[5]]
        assert [link["args"] for link in successor["link_error"]] == [[6]]

    def test_is_one_hop_on(self, successor: dict[str, Any]) -> None:
        """The header says that this is a newer copy; the user's headers are as they were."""
        assert Header.parse(successor["headers"][NAME], "job") == Header("job", hop=4)
        assert successor["headers"]["tenant"] == "a"

    def test_has_been_nowhere(self, successor: dict[str, Any]) -> None:
        """What RabbitMQ wrote of its way is left out, or it would drop the message as a cycle."""
        assert set(successor["headers"]) == {"tenant", NAME}

    @pytest.mark.parametrize(("wait_ms", "seconds"), [(0, 1), (200, 1), (1_000, 1), (1_500, 2)])
    def test_waits_whole_seconds_on_quorum_queues(
        self, app: Celery, task: Any, monkeypatch: pytest.MonkeyPatch, wait_ms: int, seconds: int
    ) -> None:
        """A quorum queue refuses fractions of a second, so the wait is rounded up."""
        quorum = {"x-queue-type": "quorum"}
        app.conf.task_queues = [Queue("celery", queue_arguments=quorum)]
        sent = []
        monkeypatch.setattr(app, "send_task", lambda *_, **options: sent.append(options))

        publish_successor(task, Context(MESSAGE), Header("job"), wait_ms)

        assert sent[0]["countdown"] == seconds


def nothing() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("waits", "quorum", "seconds"),
    [({}, True, 1), ({"countdown": 0.2}, True, 1), ({"countdown": 2.5}, True, 3),
     ({"countdown": 0}, True, 0), ({"countdown": 0.2}, False, 0.2)],
)  # fmt: skip
def test_a_retry_waits_what_every_queue_takes(
    app: Celery,
    monkeypatch: pytest.MonkeyPatch,
    waits: dict[str, Any],
    quorum: bool,
    seconds: float,
) -> None:
    """Celery loses a retry whose countdown a quorum queue refuses, so it is rounded up."""
    if quorum:
        app.conf.task_queues = [Queue("celery", queue_arguments={"x-queue-type": "quorum"})]
    task = app.task(base=IdempotentTask, default_retry_delay=0.3, shared=False)(nothing)
    sent = []
    monkeypatch.setattr(app, "send_task", lambda *_, **options: sent.append(options))
    task.push_request(id="job", args=(), kwargs={}, called_directly=False)

    retry = task.retry(throw=False, **waits)

    task.pop_request()
    assert sent[0]["countdown"] == (retry.when or 0) == seconds


@pytest.mark.parametrize("is_eta", [False, True])
@pytest.mark.parametrize(
    ("queue_type", "seconds", "expected"),
    [("quorum", 0.2, 1), ("quorum", 1.2, 1.2), ("quorum", -5, -5), ("classic", 0.2, 0.2)],
)
def test_a_call_waits_what_every_queue_takes(
    app: Celery,
    task: Any,
    monkeypatch: pytest.MonkeyPatch,
    queue_type: str,
    seconds: float,
    expected: float,
    is_eta: bool,
) -> None:
    """Celery raises for a countdown, or an ETA, of less than a second on a quorum queue."""
    app.conf.task_queues = [Queue("celery", queue_arguments={"x-queue-type": queue_type})]
    sent = []
    monkeypatch.setattr(app, "send_task", lambda *_, **options: sent.append(options))
    now = datetime.now(UTC)

    due = {"eta": now + timedelta(seconds=seconds)} if is_eta else {"countdown": seconds}
    task.apply_async((1, 2), **due)

    [options] = sent
    waits = options.get("countdown")
    if waits is None:
        waits = (options["eta"] - now).total_seconds()
    assert waits == pytest.approx(expected, abs=0.1)


def delivery_of(task: Any, **message: Any) -> Delivery:
    """A delivery of a message."""
    request = Context({"id": "job", "retries": 0, "is_eager": False, **message})
    return Delivery(task, request, (), {}, SoftLimitShield(active=False))


class TestWhatWaits:
    """A message for which something waits is never skipped."""

    @pytest.mark.parametrize("part", ["callbacks", "errbacks", "chain", "chord", "group"])
    def test_each_part_counts(self, task: Any, part: str) -> None:
        """Callbacks, the next link, a chord and a group wait for their message."""
        assert delivery_of(task, **{part: MESSAGE[part]}).flows

    def test_last_link_of_a_chain(self, task: Any) -> None:
        """It carries nothing, but the chain's result is its result."""
        assert delivery_of(task, chain=[]).flows

    def test_lone_message(self, task: Any) -> None:
        """Nothing waits for a message by itself."""
        assert not delivery_of(task).flows
        assert delivery_of(task).second_look_ms is None

    def test_second_look_comes_after_the_claim(self, task: Any) -> None:
        """A chord is looked at again after the longest claim that this Celery makes on it."""
        task.app.conf.result_backend = "redis://localhost:1/0"
        second_look_ms = delivery_of(task, chord=dict(task.s())).second_look_ms

        publishes = getattr(task.backend, "_chord_publish_claim_expires", None)
        claim = 6 if publishes is None else publishes(6, task.s())
        assert second_look_ms == (claim + 1) * 1_000


class TestQueueOf:
    """A message goes back to the queue that it came from, which need not be the default."""

    DELAY = "0." * 27 + "1."

    @pytest.fixture
    def topics(self, app: Celery) -> Celery:
        """An app with queues on topic exchanges."""
        shop, mail = (Exchange(name, type="topic") for name in ("shop", "mail"))
        app.conf.task_queues = [
            Queue("celery", shop, routing_key="celery"),
            Queue("slow", shop, routing_key="slow.jobs"),
            Queue("mails", mail, routing_key="slow.jobs"),
        ]
        return app

    @pytest.mark.parametrize(
        ("exchange", "key", "queue"),
        [
            ("shop", "celery", "celery"),
            ("shop", "slow.jobs", "slow"),
            ("mail", "slow.jobs", "mails"),
            ("celery_delayed_delivery", DELAY + "slow.jobs", "slow"),
            ("celery_delayed_0", DELAY + "slow.jobs", "slow"),
            ("celery_delayed_delivery", DELAY + "gone", None),
            ("shop", "gone", None),
            ("", "slow", None),
            (None, None, None),
        ],
    )
    def test_is_read_from_the_delivery(
        self, topics: Celery, exchange: str | None, key: str | None, queue: str | None
    ) -> None:
        """Exchange and key name it, with or without what RabbitMQ's delay put before the key."""
        info = {"exchange": exchange, "routing_key": key}

        assert queue_of(topics, Context({"delivery_info": info})) == queue

    def test_is_unknown_without_a_delivery(self, topics: Celery) -> None:
        """A call that no message brought came from no queue."""
        assert queue_of(topics, Context()) is None


@pytest.mark.parametrize(("named_ms", "longest_ms"), [(300_000, 150_000), (7_200_000, 900_000)])
def test_hops_are_shorter_than_the_consumer_timeout(
    app: Celery, named_ms: int, longest_ms: int
) -> None:
    """RabbitMQ closes the channel of a worker that holds a message for longer than it allows."""
    app.conf.broker_transport_options = {"visibility_timeout": 86_400}
    arguments = {"x-consumer-timeout": named_ms}
    app.conf.task_queues = [Queue("celery"), Queue("jobs", queue_arguments=arguments)]

    assert longest_wait_ms(app) == longest_ms
