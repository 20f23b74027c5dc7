"""Servers of a test session as processes: start, readiness, faults, end."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from reliable_tasks.errors import ReliableTasksError
from reliable_tasks.testing.eventually import eventually
from reliable_tasks.testing.processes import Process, remove_directory, scratch_directory

__all__ = (
    "HOST",
    "NOT_FOUND",
    "Daemon",
    "ServerFailed",
    "ServerNotFound",
    "free_port",
    "program",
)

NOT_FOUND = "not found: "  # how the message of ServerNotFound begins
HOST = "127.0.0.1"
PATIENCE = 60.0  # seconds until a server must answer; a busy machine is no failure


class ServerNotFound(ReliableTasksError):
    """
    A program that the tests need is not on this machine.

    Args:
        wanted: What was looked for, and where.
        remedy: How to get it.
    """

    def __init__(self, wanted: str, remedy: str) -> None:
        super().__init__(wanted, remedy)
        self.wanted, self.remedy = wanted, remedy

    def __str__(self) -> str:
        return f"{NOT_FOUND}{self.wanted}. To get it: {self.remedy}"


class ServerFailed(ReliableTasksError):
    """A server that was started ended at once, or never answered; its log is in the message."""


class Daemon:
    """
    One server process with a directory of its own, on a port that stays the same.

    A context manager: `close` kills the server and removes its directory.
    """

    _goodbye = signal.SIGTERM
    _user: tuple[int, int] | None = None  # numbers of user and group; None: the session's own

    def __init__(self, port: int) -> None:
        self.port = port
        self.directory = scratch_directory()
        self.log_file = self.directory / "server.log"
        self._process: Process | None = None

    @property
    def _command(self) -> Sequence[str | Path]:
        """Program and arguments; it must stay in the foreground."""
        raise NotImplementedError

    @property
    def _env(self) -> Mapping[str, str] | None:
        """The whole environment of the server; the session's own if None."""
        return None

    def _answering(self) -> int | None:
        """Return the process id of what answers on the port; None if nothing does yet."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """Process id of the running, or the last, server process."""
        if self._process is None:
            raise ServerFailed("the server was never started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there; a paused one is."""
        return self._process is not None and self._process.is_running

    @property
    def log(self) -> str:
        """What the server printed."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self) -> None:
        """Start on the same port, with the same data; return once it answers."""
        if self.is_running:
            raise ServerFailed(f"the server on port {self.port} is running already")
        self._process = Process(
            self._command, log=self.log_file, cwd=self.directory, env=self._env, user=self._user
        )
        eventually(
            self._is_ready,
            timeout=PATIENCE,
            message=lambda: f"server on port {self.port}:\n{self.log}",
        )

    def _start_or_close(self) -> None:
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def _is_ready(self) -> bool:
        if not self.is_running:
            raise ServerFailed(f"the server on port {self.port} ended at once:\n{self.log}")
        pid = self._answering()
        if pid not in {None, self.pid}:
            raise ServerFailed(f"port {self.port} belongs to a server that we did not start")
        return pid is not None

    def kill(self) -> None:
        """SIGKILL, as a machine that loses power; also ends a paused server."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """Ask the server to end, and wait for it; killed after 10 s."""
        if self._process is None:
            return
        self.resume()
        self._process.signal(self._goodbye)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()

    def restart(self) -> None:
        """Stop, if it runs, and start on the same port with the same data."""
        self.stop()
        self.start()

    def ensure_running(self) -> None:
        """Bring back a server that a test left killed, stopped or paused."""
        self.resume()
        if not self.is_running:
            self.start()

    def pause(self) -> None:
        """SIGSTOP: connections are accepted by the kernel and never answered."""
        if self._process is not None:
            self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._process.signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill the server and remove its data."""
        self.kill()
        remove_directory(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on port {self.port}>"


def free_port() -> int:
    """
    A port on 127.0.0.1 that nobody listens on, below the range of outgoing connections.

    From inside that range a client that knocks on a stopped server's port can be
    given that very port as its own: it would connect to itself, and the server
    could not come back.
    """
    while True:
        port = 12_000 + secrets.randbelow(10_000)  # a cluster also takes port + 10,000
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


def program(name: str, remedy: str, *, places: Sequence[Path] = ()) -> Path:
    """
    Find a program on the path.

    Args:
        name: Its name.
        remedy: How to get it.
        places: Directories to look in first.

    Raises:
        ServerNotFound: It is nowhere.
    """
    for place in places:
        if (place / name).is_file():
            return place / name
    found = shutil.which(name)
    if found is None:
        raise ServerNotFound(f"the program {name} on the path", remedy)
    return Path(found)
