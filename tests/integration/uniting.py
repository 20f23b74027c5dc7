"""One worker for the tests of unique tasks, and queues that nobody reads until they are told to."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state
from celery.result import AsyncResult
from celery.utils import uuid

from reliable_tasks.testing import Database, Ledger, Server, WorkerProcess, close_app, eventually
from tests.integration.apps import unique
from tests.integration.draining import held_routes

__all__ = ("APP", "TIMEOUT", "Unique", "label", "shared_unique", "united")

APP = "tests.integration.apps.unique"
TIMEOUT = 40.0

PRODUCER = """
import sys
from tests.integration.apps import unique
unique.app.conf.broker_url = unique.app.conf.result_backend = sys.argv[1]
getattr(unique, sys.argv[2]).apply_async((sys.argv[3],), queue=sys.argv[4])
"""


@dataclass
class Unique:
    """A worker, and what it has done."""

    app: Celery
    database: Database
    ledger: Ledger
    worker: WorkerProcess

    def began(self, label: str, times: int = 1) -> None:
        """Wait until a job has said so often that it begins."""
        eventually(lambda: self.ledger.counts("begun")[label] >= times, timeout=TIMEOUT)

    def ran(self, label: str, times: int = 1) -> None:
        """Wait until a job took effect so often."""
        eventually(lambda: self.ledger.counts()[label] >= times, timeout=TIMEOUT)

    def versions(self, label: str) -> list[int]:
        """The arguments of the runs that took effect, in order."""
        entries = self.ledger.entries("effect")
        return [entry.details["version"] for entry in entries if entry.job == label]

    def one_at_a_time(self, label: str) -> None:
        """No run of a job began before the one before it had ended."""
        kinds = [entry.kind for entry in self.ledger.entries() if entry.job == label]
        assert kinds == ["begun", "effect"] * (len(kinds) // 2)

    def read(self, queue: str) -> None:
        """Let the worker read one more queue."""
        self.app.control.add_consumer(queue, destination=[self.worker.name], reply=True)

    def drained(self, *queues: str) -> None:
        """Wait until no message is left: none waits, none is held."""
        client = self.database.client()
        names = ("celery", *queues)

        def is_over() -> bool:
            # Not counting results that are messages: this process holds what it did not ask for.
            return held_routes(client, names, readers=1).isdisjoint(names)

        eventually(is_over, timeout=TIMEOUT, message="no message is left")
        client.close()

    @property
    def env(self) -> dict[str, str]:
        """The environment of a further worker or producer."""
        return {**self.ledger.env, **self.database.celery_env}

    def publish_and_die(self, label: str, dies: str, queue: str = "celery") -> int:
        """Publish `work` from a process that dies at a point; returns its exit status."""
        paths = os.pathsep.join(path for path in sys.path if path)
        env = {**os.environ, "PYTHONPATH": paths, **self.env, unique.DIE_VARIABLE: dies}
        command = [sys.executable, "-c", PRODUCER, self.database.url, "work", label, queue]
        return subprocess.run(command, env=env, check=False, timeout=60).returncode


def answer(result: AsyncResult) -> Any:
    """Wait for a result."""
    return result.get(timeout=TIMEOUT, interval=0.05)


@contextmanager
def connected(server: Server, directory: Path, app: Celery, backend: str = "") -> Iterator[Unique]:
    """A worker of an app, and this process as its client."""
    server.ensure_running()
    database, ledger = server.new_database(), Ledger(directory / "ledger")
    backend = backend or database.url
    app.conf.update(broker_url=database.url, result_backend=backend)
    env = {**ledger.env, **database.celery_env, "CELERY_RESULT_BACKEND": backend}
    with WorkerProcess(f"{APP}:{name_of(app)}", concurrency=4, env=env) as worker:
        yield Unique(app, database, ledger, worker)
    gc.collect()  # results that refer to themselves die while their server lives
    close_app(app)


def name_of(app: Celery) -> str:
    """What the module of the apps calls one."""
    return next(name for name, value in vars(unique).items() if value is app)


@pytest.fixture(scope="session")
def shared_unique(valkey: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unique]:
    """One worker for the whole session; jobs are told apart by their labels."""
    with connected(valkey, tmp_path_factory.mktemp("unique"), unique.app) as united:
        yield united


@pytest.fixture
def united(
    shared_unique: Unique, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Unique]:
    """The session's worker; its log of this test is shown if the test fails."""
    yield from lent(shared_unique, request, monkeypatch)


def lent(
    united: Unique, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Unique]:
    """A worker that lives on after this test."""
    monkeypatch.setattr(_state._tls, "current_app", united.app)  # Celery 5.5 asks for it in chains
    start = len(united.worker.log)
    yield united
    log = united.worker.log[start:]
    request.node.add_report_section("teardown", "worker", log[-20_000:])


@pytest.fixture
def label() -> str:
    """A job's name in the ledger."""
    return uuid()[:13]
