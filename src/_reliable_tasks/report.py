"""
What a worker says of itself, in a file that it writes anew every few seconds.

Times are readings of the system's monotonic clock in seconds, which all processes of a machine
share and which no time server sets.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from time import time
from typing import NamedTuple

__all__ = (
    "INTERVAL",
    "Report",
    "default_directory",
    "erase",
    "erase_forgotten",
    "read",
    "report_path",
    "report_paths",
    "write",
)

INTERVAL = 2.0  # seconds from one report of a worker to the next
FORGOTTEN = 3_600.0  # seconds; reports of that age are of workers that were killed

_VERSION = 1
_ENDING = ".alive.json"
_ROOT = 0


class Report(NamedTuple):
    """
    A worker at one moment.

    Attributes:
        node: Its name.
        pid: Of its main process.
        written: When it was so.
        loop: When the main loop last turned.
        lost: Since when it has no connection to the broker; None: it has one.
        closing: Whether it shuts down.
        rests: Whether the loop stands still because a job runs in it, as in the solo pool.
        slots: How many jobs can run at once.
        busy: How many run.
        hung: How many of these are past their time, or are renewed no longer.
        hung_jobs: Some of those.
        waiting: Jobs that were handed to the pool and have not begun.
        idle_since: Since when some wait though a slot is free, and none began; None: not so.
    """

    node: str
    pid: int
    written: float
    loop: float
    lost: float | None = None
    closing: bool = False
    rests: bool = False
    slots: int = 1
    busy: int = 0
    hung: int = 0
    hung_jobs: Sequence[str] = ()
    waiting: int = 0
    idle_since: float | None = None


def default_directory() -> str:
    """Return where workers of this user write unless they are told another place."""
    try:
        parent = tempfile.gettempdir()
    except FileNotFoundError:  # all is read-only: who writes there says so
        parent = "/tmp"  # noqa: S108 - the directory in it is checked
    return os.path.join(parent, f"reliable-tasks-{os.getuid()}")


def report_path(directory: str, node: str) -> str:
    """Return the file of the worker called *node*."""
    name = re.sub(r"[^\w.@-]", "_", node)
    return os.path.join(directory, name + _ENDING)


def write(path: str, report: Report) -> None:
    """
    Replace the file by *report* in one step.

    Raises:
        OSError: The directory cannot be made, is another user's (who is not root), or is full.
    """
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if os.stat(directory).st_uid not in {os.getuid(), _ROOT}:
        raise PermissionError(f"{directory} belongs to another user")
    fresh = f"{path}.{report.pid}"
    with open(fresh, "w", encoding="utf-8") as file:
        json.dump({"version": _VERSION, **report._asdict()}, file)
    os.replace(fresh, path)


def erase(path: str) -> None:
    """Remove the file, if it is there."""
    with suppress(OSError):
        os.unlink(path)


def read(path: str) -> Report | None:
    """Return what the file says; None if it is gone, or of a version that nobody here knows."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.pop("version", None) != _VERSION:
        return None
    known = {name: value for name, value in found.items() if name in Report._fields}
    try:
        return Report(**known)
    except TypeError:
        return None


def report_paths(directory: str) -> list[str]:
    """Return the files of all workers that write into *directory*."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [os.path.join(directory, name) for name in sorted(names) if name.endswith(_ENDING)]


def erase_forgotten(directory: str) -> None:
    """Remove the files of workers that were killed an hour ago, or before."""
    for path in report_paths(directory):
        with suppress(OSError):
            if time() - os.stat(path).st_mtime > FORGOTTEN and read(path) is not None:
                os.unlink(path)
