"""`retry_task` with real workers: through the queue, and through faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from celery import Celery, _state, chain, chord, group
from celery.result import AsyncResult
from celery.utils import uuid

from reliable_tasks.testing import (
    Database,
    Ledger,
    Server,
    WorkerProcess,
    close_app,
    connected_app,
    eventually,
)
from reliable_tasks.testing.fixtures import StartWorker
from tests.integration.apps import retrying
from tests.integration.apps.retrying import (
    TASKS,
    Down,
    add,
    described,
    early,
    guarded,
    hopeless,
    limited,
    nested,
    plain,
    settings_env,
    total,
    unique,
)

APP = "tests.integration.apps.retrying"
TIMEOUT = 40.0
EARLY = 0.12  # seconds by which clocks may differ, and a little for the ledger
each_task = pytest.mark.parametrize(
    "task", [plain, early, guarded, unique], ids=lambda task: task.name.rpartition(".")[2]
)


@dataclass
class Retrying:
    """A database, and what the workers on it have done."""

    database: Database
    ledger: Ledger

    def begins(self, label: str) -> list[float]:
        """When each attempt of a job began."""
        return [entry.at for entry in self.ledger.entries("begun") if entry.job == label]

    def began(self, label: str, times: int = 1) -> None:
        """Wait until a job has begun so often."""
        eventually(lambda: len(self.begins(label)) >= times, timeout=TIMEOUT)

    def waits(self, label: str) -> list[float]:
        """The seconds between one attempt of a job and the next."""
        begins = self.begins(label)
        return [later - earlier for earlier, later in pairwise(begins)]


def answer(result: AsyncResult) -> Any:
    return result.get(timeout=TIMEOUT, interval=0.05)


def in_retry(result: AsyncResult) -> Callable[[], bool]:
    return lambda: result.state == "RETRY"


@pytest.fixture(scope="module")
def shared(valkey: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retrying]:
    """One worker for the module; jobs are told apart by their labels."""
    valkey.ensure_running()
    database, ledger = valkey.new_database(), Ledger(tmp_path_factory.mktemp("retry") / "ledger")
    retrying.app.conf.update(broker_url=database.url, result_backend=database.url)
    env = {**ledger.env, **database.celery_env}
    with WorkerProcess(APP, concurrency=3, env=env, queues=["celery", "slow"]):
        yield Retrying(database, ledger)
    close_app(retrying.app)


@pytest.fixture
def calm(shared: Retrying, monkeypatch: pytest.MonkeyPatch) -> Retrying:
    """The module's worker."""
    monkeypatch.setattr(_state._tls, "current_app", retrying.app)  # Celery 5.5 asks in chains
    return shared


@dataclass
class Own(Retrying):
    """One with a producer that does not have the tasks, only their names."""

    app: Celery

    def send(self, task: Any, label: str, failures: int, seconds: float) -> AsyncResult:
        """Publish a job."""
        return self.app.send_task(task.name, (label, failures, seconds))

    def are_held(self, messages: int) -> None:
        """Wait until a worker waits with so many; what kombu is about to note can be lost."""
        with self.database.client() as client:
            eventually(lambda: client.hlen("unacked") == messages, timeout=TIMEOUT)


@pytest.fixture
def own(valkey: Server, ledger: Ledger) -> Iterator[Own]:
    """A database of the test's own, with no worker yet."""
    valkey.ensure_running()
    database = valkey.new_database()
    with connected_app(database.url) as app:
        yield Own(database, ledger, app)


@pytest.fixture
def label() -> str:
    """A job's name in the ledger."""
    return uuid()[:13]


class TestThroughTheQueue:
    """The next attempt is the same message, later."""

    @pytest.mark.hooks
    @each_task
    def test_third_attempt_succeeds(self, calm: Retrying, label: str, task: Any) -> None:
        """Two failures and a success are three runs, one effect, and one result."""
        assert answer(task.delay(label)) == 3

        assert calm.ledger.counts()[label] == 1
        assert len(calm.begins(label)) == 3
        assert min(calm.waits(label)) >= 0.2

    @pytest.mark.hooks
    def test_message_stays_itself(self, calm: Retrying, label: str) -> None:
        """The last attempt has the id, headers, priority, queue and limits of the first."""
        expires = "2999-01-01T00:00:00+00:00"
        result = described.apply_async(
            (label,), headers={"tenant": "a"}, priority=3, queue="slow", time_limit=30,
            soft_time_limit=20, shadow="shade", expires=expires,
        )  # fmt: skip

        assert answer(result) == {
            "id": result.id, "tenant": "a", "priority": 3, "queue": "slow", "group": None,
            "timelimit": [30, 20], "shadow": "shade", "expires": expires, "attempt": 2,
        }  # fmt: skip

    @pytest.mark.hooks
    def test_flows_go_on(self, calm: Retrying, label: str) -> None:
        """A chain, and a chord whose members and body all fail once, end as without failures."""
        linked = chain(add.s(f"{label}.1", 1), add.si(f"{label}.2", 2), add.si(f"{label}.3", 3))
        united = chord(
            group(add.s(f"{label}.{number}", number) for number in (4, 5)),
            total.s(label=f"{label}.6"),
        )

        results = [linked.delay(), united.delay()]

        assert [answer(each) for each in results] == [3, 9]
        assert all(len(calm.begins(f"{label}.{number}")) == 2 for number in range(1, 7))

    def test_state_and_free_slot(self, calm: Retrying, label: str) -> None:
        """A job that waits is in RETRY with its error, and holds no slot of the worker."""
        waiting = [plain.delay(f"{label}.{number}", 1, 2.5) for number in range(5)]
        eventually(lambda: all(each.state == "RETRY" for each in waiting), timeout=TIMEOUT)

        assert answer(plain.delay(label, 0)) == 1

        assert all(each.state == "RETRY" for each in waiting)
        assert isinstance(waiting[0].result, Down)
        assert [answer(each) for each in waiting] == [2] * 5

    def test_total_time(self, calm: Retrying, label: str) -> None:
        """Two seconds in total are two seconds, whichever process has the attempt."""
        with pytest.raises(Down):
            answer(limited.delay(label))

        begins = calm.begins(label)
        assert 3 <= len(begins) <= 6
        assert begins[-1] - begins[0] >= 1.5
        assert begins[-2] - begins[0] < 2

    def test_long_wait(self, calm: Retrying, label: str) -> None:
        """A wait beyond the visibility timeout is kept: neither early, nor twice, nor lost."""
        jobs = {f"{label}.{task.name}": task for task in TASKS}

        results = [task.delay(job, 1, 4.0) for job, task in jobs.items()]

        assert [answer(each) for each in results] == [2] * 4
        for job in jobs:
            [wait] = calm.waits(job)
            assert 4.0 - EARLY <= wait < 12
            assert calm.ledger.counts()[job] == 1

    def test_in_place_first(self, calm: Retrying, label: str) -> None:
        """Two calls in place are one attempt of the queue."""
        assert answer(nested.delay(label)) == 6

        waits = calm.waits(label)
        assert [wait >= 0.1 for wait in waits] == [False, True, False, True, False]


class TestGuarded:
    """With our base classes a retry is the same job, on its way."""

    def test_copies(self, calm: Retrying, label: str) -> None:
        """Copies of the first message run no attempt of their own."""
        results = [guarded.apply_async((label,), task_id=label) for _ in range(3)]

        assert answer(results[0]) == 3
        assert len(calm.begins(label)) == 3

    def test_equal_call_in_the_countdown(self, calm: Retrying, label: str) -> None:
        """An equal call of a unique task is a duplicate while the job waits for its retry."""
        first = unique.delay(label, 1, 2.0)
        eventually(in_retry(first), timeout=TIMEOUT)

        second = unique.delay(label, 1, 2.0)

        assert (second.id, second.duplicate) == (first.id, True)
        assert answer(second) == 2
        assert calm.ledger.counts()[label] == 1


class TestGivingUp:
    """When there is no further attempt."""

    def test_hook_and_letter(self, calm: Retrying, label: str) -> None:
        """The hook is called once, and the message is among the dead letters."""
        result = hopeless.delay(label)
        with pytest.raises(Down):
            answer(result)

        [given_up] = [each for each in calm.ledger.entries("gave up") if each.job == label]
        with calm.database.client() as client:
            letter = json.loads(client.hget("rt1::{dead-letters}", result.id))
        assert given_up.details == {"attempts": 2, "reason": "attempts"}
        assert (letter["task"], letter["reason"]) == (hopeless.name, "attempts")


class TestFaults:
    """What breaks while a job waits for its next attempt."""

    @pytest.mark.parametrize("task", [plain, guarded], ids=["plain", "guarded"])
    def test_retry_that_cannot_be_published(self, calm: Retrying, label: str, task: Any) -> None:
        """The delivery goes back to the broker and runs again; no attempt is lost or invented."""
        retrying.refusals(calm.ledger, label).write_text("1")

        assert answer(task.delay(label, 2, 0.1)) == 3

        assert len(calm.begins(label)) == 3

    def test_acknowledged_before_it_ran(self, calm: Retrying, label: str) -> None:
        """A job that the broker no longer has fails with its own error."""
        retrying.refusals(calm.ledger, label).write_text("1")

        with pytest.raises(Down):
            answer(early.delay(label, 2, 0.1))

    def test_worker_dies_in_the_countdown(self, own: Own, worker: StartWorker) -> None:
        """Another worker runs the next attempts, when they are due; none is lost or doubled."""
        first = worker(APP, env=own.database.celery_env)
        jobs = {task: own.send(task, task.name, 1, 4.0) for task in TASKS}
        for result in jobs.values():
            eventually(in_retry(result), timeout=TIMEOUT)
        own.are_held(len(jobs))
        first.kill()

        worker(APP, env=own.database.celery_env)

        assert [answer(result) for result in jobs.values()] == [2] * len(jobs)
        for task in jobs:
            [wait] = own.waits(task.name)
            assert wait >= 4.0 - EARLY
        assert set(own.ledger.counts().values()) == {1}

    def test_broker_restarts_in_the_countdown(
        self, valkey: Server, own: Own, worker: StartWorker
    ) -> None:
        """
        The next attempts come when they are due, or as soon as broker and worker are back.

        A worker that holds messages does not live through a restart of its Redis.
        """
        worker(APP, env=own.database.celery_env)
        jobs = {task: own.send(task, task.name, 1, 4.0) for task in TASKS}
        for result in jobs.values():
            eventually(in_retry(result), timeout=TIMEOUT)
        own.are_held(len(jobs))

        valkey.restart()
        worker(APP, env=own.database.celery_env)

        for task in jobs:
            eventually(lambda task=task: own.ledger.counts()[task.name], timeout=TIMEOUT)
            [wait] = own.waits(task.name)
            assert wait >= 4.0 - EARLY
        assert set(own.ledger.counts().values()) == {1}


@pytest.mark.parametrize("pool", ["solo", "threads", "gevent"])
def test_pools(own: Own, worker: StartWorker, pool: str) -> None:
    """In every pool the slot is free while a job waits: all begin before the first goes on."""
    # Without an event loop the worker looks for further messages only every other second.
    env = own.database.celery_env | settings_env({"worker_prefetch_multiplier": 8})
    worker(APP, env=env, pool=pool, concurrency=1 if pool == "solo" else 2)
    labels = {f"{task.name}.{number}": task for task in TASKS for number in range(2)}

    results = [own.send(task, label, 1, 2.0) for label, task in labels.items()]

    assert [answer(each) for each in results] == [2] * 8
    begins = [own.begins(label) for label in labels]
    assert max(first for first, _ in begins) < min(second for _, second in begins)
