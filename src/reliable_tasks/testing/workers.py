"""Real Celery workers for tests, as processes that can be killed, paused and restarted."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from reliable_tasks.errors import ReliableTasksError
from reliable_tasks.testing.eventually import eventually
from reliable_tasks.testing.processes import (
    Process,
    children_of,
    remove_directory,
    scratch_directory,
)

__all__ = ("WorkerFailed", "WorkerProcess")


class WorkerFailed(ReliableTasksError):
    """A worker ended before it was ready; its log is in the message."""


class WorkerProcess:
    """
    ``celery -A app worker`` in a process group of its own.

    A context manager that starts the worker, waits until it is ready, and in
    the end kills whatever is left of it.

    Args:
        app: What ``-A`` takes, for example ``shop.tasks`` or ``shop.tasks:app``.
        pool: ``prefork``, ``threads``, ``solo``, ``gevent`` or ``eventlet``.
        concurrency: Children, threads or greenlets.
        queues: Queues to consume; the app's own default if empty.
        arguments: Further arguments for the worker's command line.
        env: Added to this process's environment. Paths that only this process
            knows (`sys.path`) are handed on as ``PYTHONPATH``.
        cwd: Directory to start in.
        name: First half of the node's name; a random one if left out.
        mingle: Ask the other workers for revoked tasks at the start, as workers do; this
            takes a second.
        log_level: Must be ``INFO`` or ``DEBUG`` for `wait_ready`.
    """

    def __init__(
        self,
        app: str,
        *,
        pool: str = "prefork",
        concurrency: int = 2,
        queues: Sequence[str] = (),
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str | None = None,
        mingle: bool = False,
        log_level: str = "INFO",
    ) -> None:
        self.app = app
        self.name = f"{name or 'worker-' + secrets.token_hex(4)}@localhost"
        self.queues = list(queues)
        self.log_level = log_level
        self.env = dict(env or {})
        self.cwd = cwd
        self.directory = scratch_directory()
        self.log_file = self.directory / "worker.log"
        self._log_start = 0
        self._process: Process | None = None
        self.command = [
            *(sys.executable, "-m", "celery", "-A", app, "worker"),
            *("--pool", pool, "--concurrency", str(concurrency), "--hostname", self.name),
            *("--loglevel", log_level),
            *(["--queues", ",".join(queues)] if queues else []),
            *([] if mingle else ["--without-mingle"]),
            *arguments,
        ]

    def start(self) -> Self:
        """
        Start the worker without waiting for it; also after it ended, under the same name.

        Raises:
            WorkerFailed: It is running already.
        """
        if self.is_running:
            raise WorkerFailed(f"worker {self.name} is running already")
        paths = os.pathsep.join(path for path in sys.path if path)
        env = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **self.env}
        self._log_start = len(self.log)
        self._process = Process(self.command, log=self.log_file, cwd=self.cwd, env=env)
        return self

    def wait_ready(self, timeout: float = 60.0) -> Self:
        """
        Wait for the worker's "ready." line: from then on it consumes.

        Raises:
            WorkerFailed: It ended first.
            AssertionError: It was not ready within *timeout* seconds.
        """
        eventually(self._is_ready, timeout=timeout, message=lambda: f"{self} ready:\n{self.log}")
        return self

    def _is_ready(self) -> bool:
        if f"{self.name} ready." in self.log[self._log_start :]:
            return True
        if not self.is_running:
            raise WorkerFailed(f"worker {self.name} ended before it was ready:\n{self.log}")
        return False

    @property
    def process(self) -> Process:
        """The process of the last `start`."""
        if self._process is None:
            raise WorkerFailed(f"worker {self.name} was never started")
        return self._process

    @property
    def pid(self) -> int:
        """Process id of the main process."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the main process is there; a paused one is."""
        return self._process is not None and self._process.is_running

    @property
    def exit_code(self) -> int | None:
        """Exit status of the main process, negative for a signal; None while it runs."""
        return self.process.exit_code

    @property
    def log(self) -> str:
        """All that the worker printed, over all its starts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def children(self) -> list[int]:
        """Process ids of the pool's living children, oldest first; none but for prefork."""
        return sorted(children_of(self.pid))

    def kill(self) -> None:
        """SIGKILL main process and children at once, as a machine that dies; wait for it."""
        self.process.kill()

    def kill_main(self) -> None:
        """SIGKILL the main process alone; on Linux prefork children die with it."""
        self.process.signal(signal.SIGKILL)
        self.process.wait(30)

    def kill_child(self, pid: int | None = None) -> int:
        """
        SIGKILL one child of the pool, by default the oldest.

        Returns:
            Its process id.

        Raises:
            WorkerFailed: There is no such child.
        """
        children = self.children()
        if not children or (pid is not None and pid not in children):
            raise WorkerFailed(f"worker {self.name} has no child {pid or ''}; it has {children}")
        victim = children[0] if pid is None else pid
        os.kill(victim, signal.SIGKILL)
        return victim

    def pause(self, pid: int | None = None) -> None:
        """SIGSTOP the whole worker, or one process of it."""
        self._signal(signal.SIGSTOP, pid)

    def resume(self, pid: int | None = None) -> None:
        """SIGCONT the whole worker, or one process of it."""
        self._signal(signal.SIGCONT, pid)

    def _signal(self, number: int, pid: int | None) -> None:
        if pid is None:
            self.process.signal_group(number)
        elif pid in {self.pid, *self.children()}:
            os.kill(pid, number)
        else:
            raise WorkerFailed(f"process {pid} does not belong to worker {self.name}")

    def terminate(self, timeout: float | None = 60.0) -> int | None:
        """Warm shutdown (SIGTERM): running tasks finish. Waits unless *timeout* is None."""
        return self._end(signal.SIGTERM, timeout)

    def quit(self, timeout: float | None = 60.0) -> int | None:
        """Cold shutdown, or soft if the app sets a time for it (SIGQUIT). Waits likewise."""
        return self._end(signal.SIGQUIT, timeout)

    def _end(self, number: int, timeout: float | None) -> int | None:
        self.process.signal(number)
        return None if timeout is None else self.wait(timeout)

    def wait(self, timeout: float = 60.0) -> int:
        """
        Wait for the end of the main process.

        Returns:
            Its exit status.

        Raises:
            AssertionError: It did not end within *timeout* seconds.
        """
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} still runs after {timeout:g} s:\n{self.log}") from None

    def restart(self) -> Self:
        """Kill what is left, start again under the same name, and wait until it is ready."""
        self.kill()
        return self.start().wait_ready()

    def close(self) -> None:
        """Kill what is left and remove the log."""
        if self._process is not None:
            self._process.kill()
        remove_directory(self.directory)

    def __enter__(self) -> Self:
        try:
            return self.start().wait_ready()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.name} of {self.app}>"
