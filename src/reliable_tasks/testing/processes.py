"""Processes of a test session: each in a group of its own, and none left behind."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from reliable_tasks.testing.eventually import eventually

__all__ = ("Process", "children_of", "group_of", "remove_directory", "scratch_directory")

# Reads "+group 12", "-group 12", "+folder /x", "-folder /x". Its input ends when
# the session does, however that died; then it kills and removes what is listed.
_REAPER = """
import os, shutil, signal, sys
groups, folders = set(), set()
for line in sys.stdin:
    verb, name = line.rstrip("\\n").split(" ", 1)
    names = groups if verb[1:] == "group" else folders
    (names.add if verb[0] == "+" else names.discard)(name)
for group in groups:
    try:
        os.killpg(int(group), signal.SIGKILL)
    except OSError:
        pass
for folder in folders:
    shutil.rmtree(folder, ignore_errors=True)
"""


class _Reaper:
    """A child that outlives the session for as long as it takes to kill what is listed."""

    def __init__(self) -> None:
        self._popen: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self.dismiss)
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def tell(self, order: str) -> None:
        with self._lock:
            if self._popen is None:
                self._popen = self._start()
            cast("BinaryIO", self._popen.stdin).write(f"{order}\n".encode())

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _REAPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must not reach it
            bufsize=0,
        )

    def dismiss(self) -> None:
        """Let it do its work now, and wait for it."""
        if self._popen is not None:
            cast("BinaryIO", self._popen.stdin).close()
            self._popen.wait(timeout=10)
            self._popen = None

    def _leave_to_parent(self) -> None:
        """A fork must not hold the pipe open: the reaper would wait for it as well."""
        self._lock = threading.Lock()
        if self._popen is not None:
            cast("BinaryIO", self._popen.stdin).close()
            self._popen.returncode = 0
            self._popen = None


_reaper = _Reaper()


def scratch_directory() -> Path:
    """Make a temporary directory that is removed when the session ends, however it ends."""
    path = tempfile.mkdtemp(prefix="reliable-tasks-")
    _reaper.tell(f"+folder {path}")
    return Path(path)


def remove_directory(path: Path) -> None:
    """Remove a directory that `scratch_directory` made."""
    shutil.rmtree(path, ignore_errors=True)
    _reaper.tell(f"-folder {path}")


class Process:
    """
    One program, started at once, alone in a process group of its own.

    The group is killed when the session ends, also if the session itself is
    killed with SIGKILL. Standard output and error are appended to *log*.

    Args:
        command: Program and arguments.
        log: File for all it prints.
        cwd: Directory to start in.
        env: The whole environment; the session's own if left out.
        user: Numbers of the user and group to run as, for which the session must be root's.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        user: tuple[int, int] | None = None,
    ) -> None:
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                start_new_session=True,
                user=user and user[0],
                group=user and user[1],
                extra_groups=user and [],
            )
        self.pid = self._popen.pid
        _reaper.tell(f"+group {self.pid}")

    @property
    def exit_code(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    @property
    def is_running(self) -> bool:
        """Whether the program itself (not its children) has not ended; a paused one runs."""
        return self.exit_code is None

    def wait(self, timeout: float) -> int:
        """Wait at most *timeout* seconds for the end; `subprocess.TimeoutExpired` after that."""
        return self._popen.wait(timeout)

    def signal(self, number: int) -> None:
        """Send a signal to the program alone; nothing if it has ended."""
        self._popen.send_signal(number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the program and all its children; nothing if none is left."""
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses if all are zombies
            os.killpg(self.pid, number)

    def group(self) -> list[int]:
        """The living processes of the group, the program itself first."""
        return sorted(group_of(self.pid))

    def kill(self) -> None:
        """SIGKILL the whole group and wait until it is gone; harmless if it is."""
        self.signal_group(signal.SIGKILL)
        self._popen.wait()
        eventually(lambda: not self.group(), message=lambda: f"the end of {self.group()}")
        _reaper.tell(f"-group {self.pid}")


def children_of(pid: int) -> list[int]:
    """The living direct children of a process, oldest (lowest number) first."""
    return sorted(row[0] for row in _living() if row[1] == pid)


def group_of(group: int) -> list[int]:
    """The living processes of a process group."""
    return [row[0] for row in _living() if row[2] == group]


def _living() -> Iterable[tuple[int, int, int]]:
    """(pid, parent, group) of each process that has not ended; zombies have."""
    rows = _rows_of_proc() if Path("/proc/self").is_dir() else _rows_of_ps()
    return [(pid, parent, group) for pid, parent, group, state in rows if state[0] not in "ZX"]


def _rows_of_proc() -> Iterable[tuple[int, int, int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue  # it ended while we looked
        state, parent, group = stat.rpartition(")")[2].split()[:3]
        yield int(folder.name), int(parent), int(group), state


def _rows_of_ps() -> Iterable[tuple[int, int, int, str]]:
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, check=True
    )
    for line in listing.stdout.splitlines():
        pid, parent, group, state = line.split()
        yield int(pid), int(parent), int(group), state
