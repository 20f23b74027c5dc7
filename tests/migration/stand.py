"""One library with its worker: what a test does to it, and what it sees of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from celery.exceptions import TimeoutError as NotReady
from celery.result import AsyncResult
from celery.signals import after_task_publish

from reliable_tasks.testing import Database, Ledger, Server, WorkerProcess, close_app, eventually
from tests.migration.libraries import Library
from tests.migration.tasks import GATES_VARIABLE, build

__all__ = ("Stand",)

APP = "tests.migration.app"
TIMEOUT = 30.0  # seconds for what must happen
STILL = 1.5  # seconds after which what has not happened counts as not happening
PUBLISHED = "published"


class Stand:
    """
    A worker under one library with a broker of its own, and a producer in this process.

    During a migration the *producer* can be under another library.

    Locks are kept apart, in one database for the whole session: both other libraries connect
    to the first address that a process gives them, for good.
    """

    def __init__(
        self,
        library: Library,
        server: Server,
        locks: Database,
        path: Path,
        *,
        producer: Library | None = None,
    ) -> None:
        self.library, self.locks = producer or library, locks
        self.broker = server.new_database()
        self.ledger = Ledger(path / "ledger")
        self.gates = path / "gates"
        self.gates.mkdir(parents=True)
        self.env = {
            **self.ledger.env,
            **self.broker.celery_env,
            GATES_VARIABLE: str(self.gates),
            "MIGRATION_LIBRARY": library.key,
            "MIGRATION_LOCKS": locks.url,
        }
        self.app = build(
            self.library, broker=self.broker.url, results=self.broker.url, locks=locks.url
        )
        self.queues = ["celery"]
        self.published: set[str] = set()
        self.worker: WorkerProcess

    @contextmanager
    def running(self, *, concurrency: int, **env: str) -> Iterator[Stand]:
        """Start the worker; in the end it is gone."""
        with ExitStack() as stack:
            after_task_publish.connect(self._note)
            stack.callback(after_task_publish.disconnect, self._note)
            stack.callback(close_app, self.app)
            self.worker = stack.enter_context(
                WorkerProcess(APP, concurrency=concurrency, env={**self.env, **env})
            )
            yield self

    def _note(self, headers: dict[str, Any], **_: Any) -> None:
        self.published.add(headers["id"])

    # --- what a test does --------------------------------------------------------------------

    def task(self, name: str) -> Any:
        """A task of the app."""
        return self.app.tasks[name]

    def hold(self, label: str) -> None:
        """Let executions of *label* wait before their effect."""
        (self.gates / label).touch()

    def release(self, label: str) -> None:
        """Let executions of *label* go on."""
        (self.gates / label).unlink()

    def held(self, label: str, name: str = "work") -> AsyncResult:
        """Publish a job, and wait until it runs and waits."""
        self.hold(label)
        result = self.task(name).delay(label)
        self.begun(label)
        return result

    def open(self, queue: str) -> None:
        """Let the worker read a queue that nobody has read, and end all that is in it."""
        self.queues.append(queue)
        self.app.control.add_consumer(queue, destination=[self.worker.name], reply=True, limit=1)
        self.idle()

    def call(self, name: str, *args: Any, first: AsyncResult | None = None, **options: Any) -> str:
        """Call a task as a producer does, and say in words what comes of it."""
        self.published.clear()
        try:
            result = self.task(name).apply_async(args, **options)
        except self.library.error_class:
            return self.raises
        if result.id in self.published:
            return PUBLISHED
        return "gets the first job's result" if first and result.id == first.id else "dropped"

    def die_before_publishing(self, name: str, label: str) -> None:
        """Let a producer be killed between its lock and its message."""
        command = [sys.executable, "-m", "tests.migration.producer", name, label]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **self.env}
        assert subprocess.run(command, env=env, check=False).returncode == -9

    # --- what a test sees --------------------------------------------------------------------

    @property
    def raises(self) -> str:
        """The words for a duplicate that is an error."""
        return f"raises `{self.library.error}`"

    def begun(self, label: str, times: int = 1) -> None:
        """Wait until an execution of *label* has begun, or so many."""
        eventually(lambda: self.ledger.counts("begun")[label] >= times, timeout=TIMEOUT)

    def begins_again(self, label: str) -> bool:
        """Whether a second execution begins beside the one that is held."""
        try:
            eventually(lambda: self.ledger.counts("begun")[label] > 1, timeout=STILL)
        except AssertionError:
            return False
        return True

    def runs(self, label: str) -> str:
        """How often *label* took effect, in words."""
        count = self.ledger.counts()[label]
        return f"{count} run" if count == 1 else f"{count} runs"

    def ran(self, result: AsyncResult) -> bool:
        """Whether this very job took effect."""
        return any(entry.details.get("id") == result.id for entry in self.ledger.entries("effect"))

    def blocked(self, name: str, argument: Any, since: float) -> str:
        """For how long after *since* a call with *argument* is a duplicate, in words."""
        if self.call(name, argument) == PUBLISHED:
            return "free"
        eventually(lambda: self.call(name, argument) == PUBLISHED, timeout=TIMEOUT)
        seconds = time.monotonic() - since
        for option, bound in self.library.bounds.items():
            if 0.6 < seconds / bound < 1.6:
                return f"blocked for `{option}`"
        return f"blocked for {seconds:.1f} s"

    def is_idle(self) -> bool:
        """Whether the worker has nothing to do: no message waits, none is held."""
        return not (self._is_held() or self._is_queued() or self._is_held())

    def _is_queued(self) -> bool:
        with self.broker.client() as client:
            return any(map(client.llen, self.queues)) or client.hlen("unacked") > 0

    def _is_held(self) -> bool:
        inspect = self.app.control.inspect(destination=[self.worker.name], limit=1, timeout=5)
        answers = [inspect.active(), inspect.reserved(), inspect.scheduled()]
        return any(answer is None or answer[self.worker.name] for answer in answers)

    def idle(self) -> None:
        """Wait until nothing is left to do."""
        eventually(self.is_idle, timeout=TIMEOUT, interval=0.2)

    def end(self, result: Any) -> str:
        """How a flow ended, in words; the worker is idle, so what is not there never will be."""
        self.idle()
        try:
            result.get(timeout=STILL)
        except NotReady:
            return "never ends"
        except Exception as error:
            return f"fails: `{type(error).__name__}`"
        return "completes"
