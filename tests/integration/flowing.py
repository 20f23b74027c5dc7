"""One worker that breaks where it is told to, for all tests of flows and of Celery's features."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state

from reliable_tasks.testing import Ledger, Server, WorkerProcess, close_app, eventually
from tests.integration.apps import flows
from tests.integration.apps.flows import FAULTS_VARIABLE, SETTINGS_VARIABLE, Faults
from tests.integration.grounds import Ground, RedisGround

__all__ = ("bench", "shared_bench")

TIMEOUT = 40.0
APP = "tests.integration.apps.features"


@dataclass
class Bench:
    """The worker, what it does, and what shall go wrong."""

    ground: Ground
    ledger: Ledger
    faults: Faults
    worker: WorkerProcess
    queues: list[str] = field(default_factory=lambda: ["celery"])
    others: list[WorkerProcess] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """The environment of a further worker."""
        return environment(self.ground, self.ledger, self.faults)

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

        def is_over() -> bool:
            readers = sum(each.is_running for each in (self.worker, *self.others))
            return self.ground.is_drained(self.queues, readers)

        eventually(is_over, timeout=timeout, message=lambda: f"none is left: {self.ground.held()}")

    def state(self, job: str) -> Any:
        """The result backend's word on a job."""
        return flows.app.AsyncResult(job).state


def environment(ground: Ground, ledger: Ledger, faults: Faults) -> dict[str, str]:
    """Return what a worker of the flows must know."""
    settings = {SETTINGS_VARIABLE: json.dumps(ground.settings)}
    return {**ledger.env, **ground.env, **settings, FAULTS_VARIABLE: str(faults.directory)}


@contextmanager
def benched(ground: Ground, directory: Path) -> Iterator[Bench]:
    """Start a worker on *ground*, and make this process its client."""
    ledger, faults = Ledger(directory / "ledger"), Faults(directory / "faults")
    faults.directory.mkdir()
    urls = {"broker_url": ground.broker_url, "result_backend": ground.records.url}
    env = environment(ground, ledger, faults)
    with (
        closing(ground),
        pointed(flows.app, {**urls, **ground.settings}),
        WorkerProcess(APP, concurrency=3, env=env) as worker,
    ):
        flows.copy_messages(flows.app, faults)
        yield Bench(ground, ledger, faults, worker)


@contextmanager
def pointed(app: Celery, conf: Mapping[str, Any]) -> Iterator[None]:
    """Point *app* at other servers, and back; what it opens meanwhile is closed."""
    opened = {"amqp": None, "_pool": None, "_backend_cache": None, "_local": threading.local()}
    changes = dict(app.conf.changes)
    before = {name: value for name, value in vars(app).items() if name in opened}
    vars(app).update(opened)
    del app.amqp  # a cached property
    app.conf.update(conf)
    try:
        yield
    finally:
        close_app(app)
        app.conf.changes.clear()
        app.conf.changes.update(changes)
        vars(app).pop("amqp", None)
        vars(app).update(before)


@pytest.fixture(scope="session")
def shared_bench(valkey: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One worker for the whole session; jobs are told apart by their labels."""
    with benched(RedisGround(valkey.new_database()), tmp_path_factory.mktemp("flows")) as bench:
        yield bench


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
