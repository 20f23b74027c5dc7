"""One worker that breaks where it is told to, for all tests of flows and of Celery's features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import _state

from reliable_tasks.testing import Database, Ledger, Server, WorkerProcess, close_app, eventually
from tests.integration.apps import flows
from tests.integration.apps.flows import FAULTS_VARIABLE, Faults
from tests.integration.draining import held_routes

__all__ = ("bench", "shared_bench")

TIMEOUT = 40.0
APP = "tests.integration.apps.features"


@dataclass
class Bench:
    """The worker, what it does, and what shall go wrong."""

    database: Database
    ledger: Ledger
    faults: Faults
    worker: WorkerProcess
    queues: list[str] = field(default_factory=lambda: ["celery"])
    others: list[WorkerProcess] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """The environment of a further worker."""
        faults = {FAULTS_VARIABLE: str(self.faults.directory)}
        return {**self.ledger.env, **self.database.celery_env, **faults}

    def each_once(self, *labels: str) -> None:
        """Wait until each has run, and see that it ran once."""
        eventually(lambda: set(labels) <= set(self.ledger.counts()), timeout=TIMEOUT)
        self.ran_once(*labels)

    def ran_once(self, *labels: str) -> None:
        """Each has run once by now."""
        counts = self.ledger.counts()
        assert {label: counts[label] for label in labels} == dict.fromkeys(labels, 1)

    def began(self, label: str, times: int = 1) -> None:
        """Wait until a job has said so often that it begins."""
        eventually(lambda: self.ledger.counts("begun")[label] >= times, timeout=TIMEOUT)

    def drained(self, timeout: float = TIMEOUT) -> None:
        """Wait until no message is left: none waits, none is held by anybody."""
        client = self.database.client()

        def is_over() -> bool:
            readers = sum(each.is_running for each in (self.worker, *self.others))
            return held_routes(client, self.queues, readers) == set()

        eventually(is_over, timeout=timeout, message="no message is left")
        client.close()

    def state(self, job: str) -> Any:
        """The result backend's word on a job."""
        return flows.app.AsyncResult(job).state


@pytest.fixture(scope="session")
def shared_bench(valkey: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One worker for the whole session; jobs are told apart by their labels."""
    directory = tmp_path_factory.mktemp("flows")
    ledger, faults = Ledger(directory / "ledger"), Faults(directory / "faults")
    faults.directory.mkdir()
    database = valkey.new_database()
    flows.app.conf.update(broker_url=database.url, result_backend=database.url)
    flows.copy_messages(flows.app, faults)
    env = {**ledger.env, **database.celery_env, FAULTS_VARIABLE: str(faults.directory)}
    with WorkerProcess(APP, concurrency=3, env=env) as worker:
        yield Bench(database, ledger, faults, worker)
    close_app(flows.app)


@pytest.fixture
def bench(
    shared_bench: Bench, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """The session's worker; its log of this test is shown if the test fails."""
    monkeypatch.setattr(_state._tls, "current_app", flows.app)  # Celery 5.5 asks for it in chains
    start = len(shared_bench.worker.log)
    yield shared_bench
    log = shared_bench.worker.log[start:]
    request.node.add_report_section("teardown", "worker", log[-30_000:])
