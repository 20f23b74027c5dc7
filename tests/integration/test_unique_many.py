"""Many unique jobs at once, with real workers, and producers and servers that die in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from random import getrandbits

import pytest
from celery import Celery, signals
from kombu.exceptions import OperationalError

from reliable_tasks import UniqueTask, publish_many
from reliable_tasks.testing import Database, close_app, eventually, valkey_server
from tests.integration.apps import unique
from tests.integration.apps.unique import GRACE, work
from tests.integration.uniting import TIMEOUT, Unique

pytestmark = pytest.mark.hooks

JOBS = 5

PRODUCER = f"""
import sys
from reliable_tasks import publish_many
from tests.integration.apps import unique
unique.app.conf.broker_url = unique.app.conf.result_backend = sys.argv[1]
publish_many(unique.work.s(f"{{sys.argv[2]}} {{number}}") for number in range({JOBS}))
"""


def labels(label: str) -> list[str]:
    """Return the jobs of one producer."""
    return [f"{label} {number}" for number in range(JOBS)]


def publish_and_die(united: Unique, label: str, dies: str) -> int:
    """Publish from a process that dies at a point; returns its exit status."""
    paths = os.pathsep.join(path for path in sys.path if path)
    env = {**os.environ, "PYTHONPATH": paths, **united.env, unique.DIE_VARIABLE: dies}
    command = [sys.executable, "-c", PRODUCER, united.database.url, label]
    return subprocess.run(command, env=env, check=False, timeout=60).returncode


def test_each_runs_once(united: Unique, label: str) -> None:
    """Several producers of the same jobs at once: each job is queued once, and runs once."""

    def publish(_: int) -> int:
        signatures = [work.s(f"{label} {number}").set(queue=label) for number in range(100)]
        many = publish_many(signatures)
        assert [each.error for each in many] == [None] * 100
        return sum(not each.duplicate for each in many)

    with ThreadPoolExecutor(3) as threads:
        published = list(threads.map(publish, range(3)))

    assert sum(published) == 100
    united.read(label)
    for number in range(100):
        united.ran(f"{label} {number}")
    united.drained(label)
    counts = united.ledger.counts()
    assert [counts[f"{label} {number}"] for number in range(100)] == [1] * 100


def test_dies_before_publishing(united: Unique, label: str) -> None:
    """What was reserved and never sent blocks no longer than the grace."""
    assert publish_and_die(united, label, "before publish") == -9
    began = time.monotonic()
    assert [each.duplicate for each in publish_many(map(work.s, labels(label)))] == [True] * JOBS

    eventually(
        lambda: not any(each.duplicate for each in publish_many(map(work.s, labels(label)))),
        timeout=TIMEOUT,
        interval=GRACE / 4,
    )

    assert time.monotonic() - began < 2 * GRACE + 1
    for each in labels(label):
        united.ran(each)


def test_dies_before_confirming(united: Unique, label: str) -> None:
    """What was sent runs once, and every key is free afterwards."""
    assert publish_and_die(united, label, "before confirm") == -9
    for each in labels(label):
        united.ran(each)
    united.drained()

    assert not any(each.duplicate for each in publish_many(map(work.s, labels(label))))


def test_store_is_down(united: Unique, label: str) -> None:
    """Jobs are published all the same, after one time-out, and guarded when they run."""
    app = Celery("storeless", broker=united.database.url, set_as_current=False)
    app.conf.reliable_tasks_store_url = "redis://localhost:1/0"

    @app.task(base=UniqueTask, shared=False, name=work.name)
    def copy(label: str, seconds: float = 0.0) -> None:
        """Nothing."""

    began = time.monotonic()

    many = publish_many(copy.s(each).set(queue=label) for each in labels(label))

    assert [each.error for each in many] == [None] * JOBS
    assert time.monotonic() - began < 10
    united.read(label)
    for each in labels(label):
        united.ran(each)
    close_app(app)


class TestBrokerLost:
    """The store answers, and the broker dies."""

    def task(self, broker: str, database: Database) -> UniqueTask:
        """Declare a unique task whose broker is not its store."""
        app = Celery("brokerless", broker=broker, set_as_current=False)
        app.conf.reliable_tasks_store_url = database.url
        app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.05}

        @app.task(name="lost", base=UniqueTask, shared=False, publish_grace=GRACE)
        def lost(number: int) -> None:
            """Nothing."""

        return lost

    def test_before_the_batch(self, database: Database) -> None:
        """What was not sent is free at once."""
        # kombu keeps one pool an address, and another test may have closed it
        nowhere = self.task(f"redis://localhost:1/{getrandbits(20)}", database)
        many = publish_many(nowhere.s(number) for number in range(JOBS))
        assert {type(each.error) for each in many} == {OperationalError}

        with valkey_server() as broker:
            task = self.task(broker.url, database)
            again = publish_many(task.s(number) for number in range(JOBS))
            assert [each.duplicate for each in again] == [False] * JOBS
            close_app(task.app)

    def test_in_the_batch(self, database: Database) -> None:
        """What is uncertain can be sent again as the same job; others of it wait for the grace."""

        def kill(**_: object) -> None:
            broker.kill()
            eventually(lambda: not broker.is_running)

        with valkey_server() as broker:
            task = self.task(broker.url, database)
            with task.app.producer_or_acquire() as producer:
                if not getattr(producer, "supports_batch_publish", False):
                    pytest.skip("this kombu publishes one by one")
            signals.after_task_publish.connect(kill, weak=False, dispatch_uid="kill")
            many = publish_many(task.s(number) for number in range(JOBS))
            signals.after_task_publish.disconnect(dispatch_uid="kill")
            broker.start()
            assert [each.is_uncertain for each in many] == [True] * JOBS

            blocked = publish_many([task.s(0)])
            again = publish_many(each.signature for each in many)

            assert blocked[0].duplicate
            assert [each.duplicate for each in again] == [False] * JOBS
            assert [each.result.id for each in again] == [each.signature.id for each in many]
            with broker.client() as client:
                assert client.llen("celery") == JOBS
            close_app(task.app)
