"""Real Celery workers for tests, as processes that can be killed, paused and restarted."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from reliable_tasks.testing.processes import children_of
from reliable_tasks.testing.programs import CeleryProcess, ProgramFailed

__all__ = ("WorkerFailed", "WorkerProcess")


class WorkerFailed(ProgramFailed):
    """A worker ended before it was ready; its log is in the message."""


class WorkerProcess(CeleryProcess):
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

    kind = "worker"
    failure = WorkerFailed

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
        node = f"{name or 'worker-' + secrets.token_hex(4)}@localhost"
        self.queues = list(queues)
        self.log_level = log_level
        super().__init__(app, name=node, env=env, cwd=cwd)
        self.arguments = [
            *("worker", "--pool", pool, "--concurrency", str(concurrency), "--hostname", node),
            *("--loglevel", log_level),
            *(["--queues", ",".join(queues)] if queues else []),
            *([] if mingle else ["--without-mingle"]),
            *arguments,
        ]

    @property
    def ready_line(self) -> str:
        """From here on it consumes."""
        return f"{self.name} ready."

    def children(self) -> list[int]:
        """Process ids of the pool's living children, oldest first; none but for prefork."""
        return sorted(children_of(self.pid))

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
        return super().terminate(timeout)

    def quit(self, timeout: float | None = 60.0) -> int | None:
        """Cold shutdown, or soft if the app sets a time for it (SIGQUIT). Waits likewise."""
        return self._end(signal.SIGQUIT, timeout)
