"""What becomes of the sessions of a worker's pools, on each way that a process can end."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from celery import Celery
from celery.result import AsyncResult
from celery.utils import uuid

from reliable_tasks.testing import (
    Database,
    Ledger,
    PostgresDatabase,
    Server,
    WorkerProcess,
    connected_app,
    eventually,
)
from tests.integration.pools_page import KIB, VARIABLE

__all__ = (
    "SETUPS",
    "TIMEOUT",
    "Begin",
    "Ends",
    "Stand",
    "begin",
    "idle",
    "observe",
)

APP = "tests.integration.apps.pooled"
TIMEOUT = 60.0
TRIES = 4  # a hard time limit leaves 0.1 s, which is little on a busy machine

Ends = dict[str, str]  # by kind: "closed", or "cut off"


@dataclass(slots=True)
class Stand:
    """A worker with pools, and who watches it."""

    app: Celery
    worker: WorkerProcess
    ledger: Ledger
    postgres: PostgresDatabase

    def send(self, task: str, *args: Any, **options: Any) -> AsyncResult:
        """Publish a call of one of the app's tasks."""
        return self.app.send_task(f"{APP}.{task}", args, **options)

    def answer(self, task: str, *args: Any) -> Any:
        """Publish a call and wait for its answer."""
        return self.send(task, *args).get(timeout=TIMEOUT, interval=0.05)

    def sessions(self, label: str) -> dict[str, int]:
        """Return the server's processes that a task has used, by kind of pool, once it has."""

        def noted() -> dict[str, int]:
            entries = [entry for entry in self.ledger.entries("sessions") if entry.job == label]
            return entries[-1].details if entries else {}

        return eventually(noted, timeout=TIMEOUT, message=lambda: f"{label}:\n{self.worker.log}")

    def parents_sessions(self) -> dict[str, int]:
        """Let the worker's main process use its pools; return its sessions."""
        inspect = self.app.control.inspect([self.worker.name], timeout=TIMEOUT, limit=1)
        answer: dict[str, int] = inspect._request("parents_sessions")[self.worker.name]
        return answer

    def ends(self, label: str) -> Ends:
        """Wait until the sessions of a task have ended; return what the server says of each."""
        sessions = self.sessions(label)

        def ended() -> Ends:
            log = self.postgres.server.log
            ends = {kind: _end_of(session, log) for kind, session in sessions.items()}
            return ends if all(ends.values()) else {}

        return eventually(ended, timeout=TIMEOUT, message=lambda: f"the end of {sessions}")


def _end_of(session: int, log: str) -> str:
    lines = [line for line in log.splitlines() if f"[{session}]" in line]
    if not any("disconnection:" in line for line in lines):
        return ""
    return "cut off" if any("unexpected EOF" in line for line in lines) else "closed"


class Begin(Protocol):
    """What the fixture `begin` is."""

    def __call__(self, **options: Any) -> AbstractContextManager[Stand]:
        """Start a worker; the options are those of `stand`."""


@pytest.fixture
def begin(valkey: Server, postgres_database: PostgresDatabase, tmp_path: Path) -> Begin:
    """Start workers whose pools are connected to a database of this test."""
    return lambda **options: stand(valkey.new_database(), postgres_database, tmp_path, **options)


@contextmanager
def stand(
    database: Database,
    postgres: PostgresDatabase,
    folder: Path,
    *,
    worker: Mapping[str, Any] | None = None,
    **said: Any,
) -> Iterator[Stand]:
    """
    Start a worker of the app with pools.

    Args:
        database: Broker and result backend.
        postgres: What the pools are connected to.
        folder: For the ledger.
        worker: Options of `WorkerProcess`.
        **said: What the app is told.
    """
    ledger = Ledger(folder / uuid())
    told = {VARIABLE: json.dumps({"url": postgres.url, **said})}
    env = {**ledger.env, **database.celery_env, **told}
    options = {"concurrency": 1, **(worker or {})}
    with connected_app(database.url) as app, WorkerProcess(APP, env=env, **options) as process:
        yield Stand(app, process, ledger, postgres)


# --- ways to end ---------------------------------------------------------------------------

End = Callable[[Stand], str]  # lets a process use its pools and end; returns the task's label


@dataclass(frozen=True, slots=True)
class Setup:
    """
    A worker, and the ways in which its processes end, by the words of the docs.

    Args:
        worker: Options of `WorkerProcess`.
        ends: All are begun before the first is looked at; the last one may end the worker.
        settings: Celery's.
    """

    worker: Mapping[str, Any]
    ends: Mapping[str, End]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pool(self) -> str:
        """Which of Celery's pools."""
        return str(self.worker.get("pool", "prefork"))


def idle(stand: Stand) -> str:
    """Use the pools in a task that is over."""
    label = uuid()
    stand.answer("use", label)
    return label


def busy(stand: Stand) -> str:
    """Use the pools in a task that goes on for a while; a thread cannot be stopped."""
    label = uuid()
    stand.send("use", label, 3.0)
    stand.sessions(label)
    return label


def by_itself(task: str, *args: Any, **options: Any) -> End:
    """Let a task end its own process."""

    def end(stand: Stand) -> str:
        label = uuid()
        stand.send(task, label, *args, **options)
        return label

    return end


def signalled(number: int, begin: End) -> End:
    """Send a signal to the worker."""

    def end(stand: Stand) -> str:
        label = begin(stand)
        stand.worker.process.signal(number)
        return label

    return end


def revoked(stand: Stand) -> str:
    """Revoke a task that runs."""
    label = uuid()
    result = stand.send("hang", label)
    stand.sessions(label)
    result.revoke(terminate=True)
    return label


def limited(stand: Stand) -> str:
    """Let a task run into its hard time limit; again where this machine was not quick enough."""
    for _ in range(TRIES):
        label = by_itself("hang", time_limit=1)(stand)
        if set(stand.ends(label).values()) == {"closed"}:
            break
    return label


def shrunk(stand: Stand) -> str:
    """Take the only child away."""
    label = idle(stand)
    stand.app.control.pool_shrink(1, reply=True, timeout=TIMEOUT, limit=1)
    return label


CHILD = {
    "`max_memory_per_child`": by_itself("grow"),
    "`revoke(terminate=True)`": revoked,
    "`sys.exit` in a task": by_itself("leave", "exit"),
    "hard time limit, and the task catches `SystemExit`": by_itself("swallow", time_limit=1),
    "`os._exit` in a task": by_itself("leave", "_exit"),
    "SIGKILL, or out of memory": by_itself("leave", "kill"),
}
LIMITED = {"hard time limit": limited}
SHRUNK = {"`pool_shrink`": shrunk}
TASKS = {"`max_tasks_per_child`": by_itself("use")}
WARM = {"warm shutdown (TERM)": signalled(signal.SIGTERM, idle)}
COLD = {"cold shutdown (QUIT), a task runs": signalled(signal.SIGQUIT, busy)}
COLD_IDLE = {"cold shutdown (QUIT), no task runs": signalled(signal.SIGQUIT, idle)}
SOFT = {"soft shutdown, a task runs": signalled(signal.SIGQUIT, busy)}
KILLED = {"SIGKILL of the worker, a task runs": signalled(signal.SIGKILL, busy)}
SOFTLY = {"worker_soft_shutdown_timeout": 1.0}
MEMORY = f"--max-memory-per-child={KIB}"

SETUPS = {
    # A child for each, for the worker may take 5 s to notice that one is gone.
    "children": Setup({"concurrency": len(CHILD), "arguments": [MEMORY]}, CHILD),
    "prefork, limited": Setup({"concurrency": TRIES}, LIMITED),
    "prefork, shrunk": Setup({}, SHRUNK),
    "prefork, warm": Setup({}, WARM),
    "prefork, cold": Setup(
        {"concurrency": 2, "arguments": ["--max-tasks-per-child=1"]}, {**TASKS, **COLD}
    ),
    "prefork, soft": Setup({}, SOFT, SOFTLY),
    "prefork, killed": Setup({}, KILLED),
    **{
        f"{pool}, {how}": Setup({"pool": pool}, ends, settings)
        for pool in ("solo", "threads", "gevent", "eventlet")
        for how, ends, settings in (
            ("warm", WARM, {}),
            ("cold", COLD, {}),
            ("cold, idle", COLD_IDLE, {}),
            ("soft", SOFT, SOFTLY),
            ("killed", KILLED, {}),
        )
    },
}


def observe(begin: Begin, name: str, *, closes: bool) -> dict[tuple[str, str], Ends]:
    """Let everything of a setup end; return how the sessions did, by pool and by words."""
    setup = SETUPS[name]
    told = {"closes": closes, "used_before_fork": closes, "settings": setup.settings}
    with begin(worker=setup.worker, **told) as stand:
        labels = {(setup.pool, words): end(stand) for words, end in setup.ends.items()}
        return {row: stand.ends(label) for row, label in labels.items()}
