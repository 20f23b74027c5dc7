"""On RabbitMQ, which lets nobody look into a queue, jobs are found by all that others know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reliable_tasks.testing import WorkerProcess, eventually
from tests.integration.apps import sought

APP = "tests.integration.apps.sought"
PUBLISH = f"from {APP} import publish; publish()"
BY_RECORDS = {
    "done": "done",
    "failed": "failed",
    "poison": "quarantined",
    "hopeless": "dead-letter",
    "refused": "refused",
    "guarded-retried": "retrying",
}
BY_RECORDER = {"expired": "expired", "unregistered": "unregistered", "retried": "retrying"}
Ask = Callable[[str], dict[str, Any]]


@pytest.fixture(params=["quorum", "classic"])
def kind(request) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["recorded", "unrecorded"])
def is_recorded(request) -> bool:
    return bool(request.param)


@pytest.fixture
def ask(rabbitmq, valkey, tmp_path, kind, is_recorded) -> Iterator[Ask]:
    """Publish to a worker on RabbitMQ, and ask; records are in Redis, and results nowhere."""
    settings = {
        "task_default_queue_type": kind,
        "task_default_exchange_type": "topic",
        "reliable_tasks_store_url": valkey.new_database().url,
        "reliable_tasks_flight_recorder": is_recorded,
    }
    env = {
        **rabbitmq.new_vhost().celery_env,
        sought.FOLDER: str(tmp_path),
        sought.SETTINGS: json.dumps(settings),
    }

    def run(*words: str) -> str:
        command = [sys.executable, *words]
        return subprocess.check_output(command, env={**os.environ, **env}, text=True, timeout=60)

    with WorkerProcess(APP, concurrency=3, env=env):
        run("-c", PUBLISH)
        yield lambda task_id: json.loads(
            run("-m", "celery", "-A", APP, "reliable", "why", task_id, "--json")
        )


def test_jobs_are_found(ask, kind, is_recorded):
    """By records and letters, and by the recorder where it is on, each job is where it is."""
    waits_in_worker = kind == "classic"
    expected = dict(BY_RECORDS)
    if is_recorded:
        expected |= BY_RECORDER
    if is_recorded or waits_in_worker:
        expected |= {"later": "scheduled"}

    for task_id, state in expected.items():
        last: list[Any] = []

        def is_there(task_id=task_id, state=state, last=last) -> bool:
            last[:] = [ask(task_id)]
            return last[0]["state"] == state

        eventually(is_there, message=lambda last=last: json.dumps(last))


@pytest.mark.parametrize("is_recorded", [False], indirect=True)
@pytest.mark.parametrize("kind", ["quorum"], indirect=True)
def test_queues_that_delay_are_named(ask):
    """A job that RabbitMQ delays, and of which nobody else knows, may be in one of its queues."""
    document = ask("later")

    (note,) = [each for each in document["notes"] if each["name"] == "may-be-in"]
    assert document["state"] in {"unknown", "reserved"}
    assert any("delayed" in name for name in note["facts"]["queues"])
