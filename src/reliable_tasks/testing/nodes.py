"""
Nodes for pytest-celery that are local processes, so that no Docker is needed.

In a ``conftest.py`` (pytest-celery itself is loaded by pytest)::

    from reliable_tasks.testing.nodes import *

    @pytest.fixture
    def worker_app():
        return "shop.tasks"

Then ``celery_setup`` runs on a real broker, a real result backend and a real
worker. The nodes can be killed and restarted as pytest-celery's own can; what
only containers can do (networks, images, commands run inside) is not there.
The fixtures of `reliable_tasks.testing.fixtures` must be loaded as well.
"""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import redis
from celery import Celery
from celery import __version__ as celery_version
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestContainer,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from reliable_tasks.testing.apps import close_app
from reliable_tasks.testing.ledger import Ledger
from reliable_tasks.testing.processes import group_of
from reliable_tasks.testing.servers import Database, Server
from reliable_tasks.testing.workers import WorkerProcess

__all__ = (
    "LocalServer",
    "LocalWorker",
    "LocalWorkerNode",
    "celery_backend_cluster",
    "celery_broker_cluster",
    "celery_setup_app",
    "celery_worker_cluster",
    "worker_app",
    "worker_options",
)

# What `celery_setup.ready(ping=True)` calls.
PING_MODULE = "pytest_celery.vendors.worker.tasks"
COLUMNS = ["pid", "name", "username", "cmdline", "cpu_percent", "memory_percent", "create_time"]


class LocalProcess(CeleryTestContainer):
    """What pytest-celery takes for a container: a server or a worker on this machine."""

    def __init__(self, process: Server | WorkerProcess) -> None:
        # Not the parent's: it wants a container of the Docker client.
        self.process = process

    @property
    def id(self) -> str:
        """The process id, in place of a container's."""
        return str(self.process.pid)

    @property
    def status(self) -> str:
        """``running`` (or paused) or ``exited``."""
        return "running" if self.process.is_running else "exited"

    @property
    def attrs(self) -> dict[str, Any]:
        """Nothing: there is no container to describe."""
        return {}

    def logs(self) -> str:
        """All that the process printed."""
        return self.process.log

    def reload(self) -> None:
        """Nothing to refresh: every answer is asked of the process itself."""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal by name or number; SIGKILL ends the children as well."""
        number = signals.Signals[signal] if isinstance(signal, str) else signals.Signals(signal)
        if number == signals.SIGKILL:
            self.process.kill()
        else:
            os.kill(self.process.pid, number)

    def exec_run(self, *_: Any, **__: Any) -> tuple[int, bytes]:
        """Refused: there is no container to run a command in."""
        return 1, b"a local process has no container to run a command in"


class LocalServer(LocalProcess):
    """A database of a local server, as broker or result backend."""

    process: Server

    def __init__(self, database: Database) -> None:
        super().__init__(database.server)
        self.database = database

    @property
    def name(self) -> str:
        """Program and port."""
        return f"{self.process.binary.name}:{self.process.port}"

    @property
    def client(self) -> redis.Redis:
        """A client of the database."""
        return self.database.client(decode_responses=True)

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """Addresses as pytest-celery's Redis container gives them."""
        url = self.database.url
        return {
            "url": url,
            "host_url": url,
            "hostname": "127.0.0.1",
            "port": self.process.port,
            "vhost": str(self.database.number),
        }

    def ready(self) -> bool:
        """Whether the server answers."""
        return bool(self.client.ping())

    def restart(self, timeout: float = 10) -> None:  # noqa: ARG002 - pytest-celery passes it
        """Stop and start on the same port with the same data."""
        self.process.restart()

    def teardown(self) -> None:
        """Leave a running server to the next test."""
        self.process.ensure_running()


class LocalWorker(LocalProcess):
    """A worker process."""

    process: WorkerProcess

    @property
    def name(self) -> str:
        """The Celery node's name."""
        return self.process.name

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """Empty: a worker adds nothing to the configuration."""
        return {}

    def version(self) -> str:
        """Celery's version, which is that of the tests."""
        return str(celery_version)

    def log_level(self) -> str:
        """Level of the worker's log."""
        return self.process.log_level

    def worker_name(self) -> str:
        """First half of the node's name."""
        return self.process.name.partition("@")[0]

    def worker_queue(self) -> str:
        """The first queue that it consumes."""
        return self.process.queues[0] if self.process.queues else "celery"

    def ready(self) -> bool:
        """Wait until the worker consumes."""
        self.process.wait_ready()
        return True

    def restart(self, timeout: float = 10) -> None:
        """Warm shutdown, or a kill after *timeout* seconds, and start again."""
        if self.process.is_running:
            with suppress(AssertionError):
                self.process.terminate(timeout)
        self.process.restart()

    def teardown(self) -> None:
        """Kill what is left."""
        self.process.close()


class LocalWorkerNode(CeleryTestWorker):
    """pytest-celery's worker node over a local process."""

    container: LocalWorker

    def hostname(self) -> str:
        """The Celery node's name, as in ``inspect`` and ``control``."""
        return self.container.name

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """What psutil knows of the main process and its children."""
        rows = []
        for pid in group_of(self.container.process.pid):
            with suppress(psutil.NoSuchProcess):
                rows.append(psutil.Process(pid).as_dict(columns or COLUMNS))
        wanted = (filters or {}).items()
        return [row for row in rows if all(row.get(key) == value for key, value in wanted)]


@pytest.fixture
def worker_app() -> str:
    """What `WorkerProcess` takes for ``app``: override it."""
    raise pytest.UsageError(
        "override the fixture worker_app: return what `celery -A` takes, such as 'shop.tasks'"
    )


@pytest.fixture
def worker_options() -> dict[str, Any]:
    """Further arguments of `WorkerProcess`: override it for another pool or more queues."""
    return {}


@pytest.fixture
def celery_broker_cluster(database: Database) -> Iterator[CeleryBrokerCluster]:
    """One broker: a database of the test's server."""
    node = CeleryTestBroker(LocalServer(database))
    yield CeleryBrokerCluster(node)
    node.teardown()


@pytest.fixture
def celery_backend_cluster(server: Server) -> Iterator[CeleryBackendCluster]:
    """One result backend: another database of the same server."""
    node = CeleryTestBackend(LocalServer(server.new_database()))
    yield CeleryBackendCluster(node)
    node.teardown()


@pytest.fixture
def celery_setup_app(
    celery_setup_cls: type[CeleryTestSetup],
    celery_setup_config: dict[str, Any],
    celery_setup_name: str,
) -> Iterator[Celery]:
    """The test's own app, closed with all its connections."""
    app = celery_setup_cls.create_setup_app(celery_setup_config, celery_setup_name)
    yield app
    close_app(app)


@pytest.fixture
def celery_worker_cluster(
    worker_app: str,
    worker_options: dict[str, Any],
    ledger: Ledger,
    celery_broker_cluster: CeleryBrokerCluster,
    celery_backend_cluster: CeleryBackendCluster,
) -> Iterator[CeleryWorkerCluster]:
    """One worker on that broker and backend, through the variables that Celery itself reads."""
    env = {
        "CELERY_BROKER_URL": celery_broker_cluster[0].config()["url"],
        "CELERY_RESULT_BACKEND": celery_backend_cluster[0].config()["url"],
        **ledger.env,
        **worker_options.get("env", {}),
    }
    arguments = ["--include", PING_MODULE, *worker_options.get("arguments", ())]
    options = {**worker_options, "env": env, "arguments": arguments}
    with WorkerProcess(worker_app, **options) as process:
        yield CeleryWorkerCluster(LocalWorkerNode(LocalWorker(process), app=None))
