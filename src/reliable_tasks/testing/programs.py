"""What `celery` commands have in common as processes of a test: start, end, signals, log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from reliable_tasks.errors import ReliableTasksError
from reliable_tasks.testing.eventually import eventually
from reliable_tasks.testing.processes import Process, remove_directory, scratch_directory

__all__ = ("CeleryProcess", "ProgramFailed")


class ProgramFailed(ReliableTasksError):
    """A program ended before it was ready; its log is in the message."""


class CeleryProcess:
    """
    ``celery -A app COMMAND`` in a process group of its own.

    A context manager that starts the program, waits until it is ready, and in
    the end kills whatever is left of it.

    Args:
        app: What ``-A`` takes, for example ``shop.tasks`` or ``shop.tasks:app``.
        name: What errors call it.
        env: Added to this process's environment. Paths that only this process
            knows (`sys.path`) are handed on as ``PYTHONPATH``.
        cwd: Directory to start in.
    """

    kind = "program"
    failure: type[ProgramFailed] = ProgramFailed

    def __init__(
        self,
        app: str,
        *,
        name: str,
        env: Mapping[str, str] | None,
        cwd: Path | None,
    ) -> None:
        self.app, self.name = app, name
        self.env, self.cwd = dict(env or {}), cwd
        self.directory = scratch_directory()
        self.log_file = self.directory / f"{self.kind}.log"
        self.arguments: list[str] = []
        self._log_start = 0
        self._process: Process | None = None

    @property
    def ready_line(self) -> str:
        """What the program prints once it is ready."""
        raise NotImplementedError

    def start(self) -> Self:
        """
        Start the program without waiting for it; also after it ended, under the same name.

        Raises:
            ProgramFailed: It is running already.
        """
        if self.is_running:
            raise self.failure(f"{self.kind} {self.name} is running already")
        paths = os.pathsep.join(path for path in sys.path if path)
        env = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **self.env}
        self._log_start = len(self.log)
        command = [sys.executable, "-m", "celery", "-A", self.app, *self.arguments]
        self._process = Process(command, log=self.log_file, cwd=self.cwd, env=env)
        return self

    def wait_ready(self, timeout: float = 60.0) -> Self:
        """
        Wait for the line that says that the program does its work.

        Raises:
            ProgramFailed: It ended first.
            AssertionError: It was not ready within *timeout* seconds.
        """
        eventually(self._is_ready, timeout=timeout, message=lambda: f"{self} ready:\n{self.log}")
        return self

    def _is_ready(self) -> bool:
        if self.ready_line in self.log[self._log_start :]:
            return True
        if not self.is_running:
            raise self.failure(f"{self.kind} {self.name} ended before it was ready:\n{self.log}")
        return False

    @property
    def process(self) -> Process:
        """The process of the last `start`."""
        if self._process is None:
            raise self.failure(f"{self.kind} {self.name} was never started")
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
        """All that the program printed, over all its starts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def kill(self) -> None:
        """SIGKILL main process and children at once, as a machine that dies; wait for it."""
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP the whole program."""
        self.process.signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT the whole program."""
        self.process.signal_group(signal.SIGCONT)

    def terminate(self, timeout: float | None = 60.0) -> int | None:
        """Ask it to end in good order (SIGTERM). Waits unless *timeout* is None."""
        return self._end(signal.SIGTERM, timeout)

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
        return f"<{type(self).__name__} {self.name} of {self.app}>"
