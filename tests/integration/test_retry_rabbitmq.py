"""`retry_task`, retries and deferrals on RabbitMQ, with each kind of queue, and through faults."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult
from celery.utils import uuid

from reliable_tasks.testing import (
    Ledger,
    RabbitMQServer,
    Server,
    VirtualHost,
    WorkerProcess,
    close_app,
    eventually,
)
from tests.integration.apps.retrying import (
    SETTINGS_VARIABLE,
    TASKS,
    by_itself,
    guarded,
    lasting,
    unique,
)

pytestmark = pytest.mark.timeout(240)  # a node and three workers start and restart

APP = "tests.integration.apps.retrying"
TIMEOUT = 60.0
COUNTDOWN = 8.0  # seconds in which all jobs get there, also on a busy machine
EARLY = 0.12  # seconds by which clocks may differ, and a little for the ledger
COUNTED = 0.5  # seconds after which a quorum queue has counted its messages
# Celery's native delayed delivery holds a countdown in the broker, but only for a topic exchange.
# Elsewhere the worker holds the message until it is due, unacknowledged.
KINDS = {"native": ("quorum", "topic"), "quorum": ("quorum", "direct"), "classic": ("classic", "")}
QUEUES = ("celery", "slow")
EACH = (*TASKS, by_itself)


def settings(kind: str) -> dict[str, Any]:
    """Return what both sides must know, so that they declare the same queues."""
    queue_type, exchange_type = KINDS[kind]
    queue = {
        "exchange": "jobs",
        "exchange_type": exchange_type or "direct",
        "queue_arguments": {"x-queue-type": queue_type},
    }
    return {
        "task_queues": {name: {**queue, "routing_key": name} for name in QUEUES},
        "broker_transport_options": {"confirm_publish": True},
        "reliable_tasks_store_url": None,
    }


@dataclass
class Place:
    """One kind of queue: a virtual host, a worker, and a producer that has no tasks."""

    vhost: VirtualHost
    worker: WorkerProcess
    app: Celery
    ledger: Ledger

    def send(self, task: Any, label: str, *arguments: Any, **options: Any) -> AsyncResult:
        """Publish a job, by default to the queue that is not the app's default."""
        return self.app.send_task(task.name, (label, *arguments), **{"queue": "slow", **options})

    def held(self) -> int:
        """How many messages of jobs the broker has, delayed ones included."""
        return sum(
            state.ready + state.unacknowledged
            for name, state in self.vhost.queues().items()
            if name in QUEUES or name.startswith("celery_delayed")
        )

    def begins(self, label: str) -> list[float]:
        """When each attempt of a job began."""
        return [entry.at for entry in self.ledger.entries("begun") if entry.job == label]

    def waits(self, label: str) -> list[float]:
        """The seconds between one attempt of a job and the next."""
        return [later - earlier for earlier, later in pairwise(self.begins(label))]


@dataclass
class Job:
    """A job on its way."""

    place: Place
    label: str
    result: AsyncResult

    @property
    def answer(self) -> Any:
        """What it returned."""
        return self.result.get(timeout=TIMEOUT, interval=0.05)

    @property
    def waits(self) -> list[float]:
        """The seconds between its attempts."""
        return self.place.waits(self.label)


def wait_for_retries(places: dict[str, Place], jobs: list[Job]) -> None:
    """Wait until the broker has the next attempt of each job, and no earlier message of it."""
    for job in jobs:
        eventually(lambda: job.result.state == "RETRY", timeout=TIMEOUT, message=job.label)  # noqa: B023
    for kind, place in places.items():
        held = sum(job.place is place for job in jobs)
        in_retry_since = monotonic()
        eventually(
            lambda: monotonic() > in_retry_since + COUNTED and place.held() == held,  # noqa: B023
            message=lambda: f"{kind} holds {held}: {place.vhost.queues()}",  # noqa: B023
        )


def declare_queues(app: Celery) -> None:
    """Declare all queues: a worker of Celery 5.5 cannot do without those that it does not read."""
    with app.connection() as connection:
        for queue in app.amqp.queues.values():
            queue(connection.default_channel).declare()


@pytest.fixture(scope="module")
def workers(
    rabbitmq: RabbitMQServer, valkey: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Place]]:
    """A worker for each kind of queue, all on one node; none of them reads the default queue."""
    rabbitmq.ensure_running()
    valkey.ensure_running()
    ledger = Ledger(tmp_path_factory.mktemp("retry") / "ledger")
    with ExitStack() as stack:
        places = {}
        for kind in KINDS:
            vhost, results = rabbitmq.new_vhost(), valkey.new_database()
            conf = {**settings(kind), "reliable_tasks_store_url": results.url}
            env = {
                **ledger.env,
                "CELERY_BROKER_URL": vhost.url,
                "CELERY_RESULT_BACKEND": results.url,
                SETTINGS_VARIABLE: json.dumps(conf),
            }
            worker = WorkerProcess(APP, concurrency=3, env=env, queues=["slow"])
            stack.callback(worker.close)
            app = Celery(kind, broker=vhost.url, backend=results.url, set_as_current=False)
            app.conf.update(conf)
            stack.callback(close_app, app)
            declare_queues(app)
            places[kind] = Place(vhost, worker.start(), app, ledger)
        for place in places.values():
            place.worker.wait_ready()
        yield places


def nothing_is_left(places: dict[str, Place]) -> None:
    """Wait until the broker has no message of a job any more, copies included."""
    for kind, place in places.items():
        eventually(lambda: not place.held(), message=lambda: f"{kind}: {place.vhost.queues()}")  # noqa: B023


@pytest.fixture
def label() -> str:
    """A job's name in the ledger."""
    return uuid()[:13]


def everywhere(
    places: dict[str, Place], label: str, *arguments: Any, tasks: Sequence[Any] = EACH
) -> list[Job]:
    """Publish a job of each task to each kind of queue."""
    return [
        Job(place, name, place.send(task, name, *arguments))
        for kind, place in places.items()
        for task in tasks
        for name in [f"{label}.{kind}.{task.name}"]
    ]


@pytest.mark.hooks
def test_short_countdown_is_not_lost(workers: dict[str, Place], label: str) -> None:
    """
    A wait of 0.2 s, which Celery cannot publish where RabbitMQ delays it, is rounded up.

    It leads back to the queue that the job came from, where Celery would take the default queue.
    """
    jobs = everywhere(workers, label, 2, 0.2)

    assert [job.answer for job in jobs] == [3] * len(jobs)

    least = {"native": 1.0, "quorum": 1.0, "classic": 0.2}
    for job in jobs:
        assert min(job.waits) >= least[job.label.split(".")[1]] - EARLY


@pytest.mark.hooks
def test_same_delay_again(workers: dict[str, Place], label: str) -> None:
    """
    A wait that leads through the same delay queues as the one before is no dead-letter cycle.

    RabbitMQ drops a message that has been there before, and knows that by the message's headers.
    """
    jobs = everywhere({"native": workers["native"]}, label, 2, 3.0)

    assert [job.answer for job in jobs] == [3] * len(jobs)


def test_duplicate_is_put_off(workers: dict[str, Place], label: str) -> None:
    """A copy of a running job waits in the broker, then gets its result; it takes effect once."""
    jobs = [
        Job(place, name, place.send(lasting, name, 3.0, task_id=name))
        for kind, place in workers.items()
        for name in [f"{label}.{kind}"] * 2
    ]

    assert [job.answer for job in jobs] == [1] * len(jobs)

    for job in jobs:
        assert f"[{job.label}] deferred: " in job.place.worker.log
        assert job.place.ledger.counts()[job.label] == 1
    nothing_is_left(workers)


def test_connection_is_cut(workers: dict[str, Place], label: str) -> None:
    """What runs and what waits comes again, at once; each attempt of a guarded job runs once."""
    waiting = everywhere(workers, label, 1, 4.0, tasks=(guarded, unique, by_itself))
    running = everywhere(workers, label, 4.0, tasks=(lasting,))
    for job in waiting:
        eventually(lambda: job.result.state == "RETRY", timeout=TIMEOUT)  # noqa: B023
    for job in running:
        eventually(lambda: job.place.begins(job.label), timeout=TIMEOUT)  # noqa: B023

    for place in workers.values():
        place.vhost.cut()

    assert [job.answer for job in waiting + running] == [2] * len(waiting) + [1] * len(running)
    nothing_is_left(workers)
    for job in waiting:
        [wait] = job.waits
        assert wait >= 4.0 - EARLY
    assert [len(job.place.begins(job.label)) for job in running] == [1] * len(running)


def test_worker_dies_in_the_countdown(workers: dict[str, Place], label: str) -> None:
    """The next attempts run when they are due, not before, and each of them once."""
    jobs = everywhere(workers, label, 1, COUNTDOWN)
    wait_for_retries(workers, jobs)

    for place in workers.values():
        place.worker.kill()
    for place in workers.values():
        place.worker.start()

    assert [job.answer for job in jobs] == [2] * len(jobs)
    waits = {job.label: job.waits for job in jobs}
    assert all(len(each) == 1 and each[0] >= COUNTDOWN - EARLY for each in waits.values()), waits


def test_broker_dies_in_the_countdown(
    workers: dict[str, Place], rabbitmq: RabbitMQServer, label: str
) -> None:
    """The next attempts run when they are due, or once the broker is back, each of them once."""
    jobs = everywhere(workers, label, 1, COUNTDOWN)
    wait_for_retries(workers, jobs)

    rabbitmq.kill()
    rabbitmq.start()

    assert [job.answer for job in jobs] == [2] * len(jobs)
    waits = {job.label: job.waits for job in jobs}
    assert all(len(each) == 1 and each[0] >= COUNTDOWN - EARLY for each in waits.values()), waits
