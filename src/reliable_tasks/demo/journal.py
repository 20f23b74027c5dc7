"""Where a demo is counted: a file of its own, one line per thing that happened."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

__all__ = ("Entry", "Journal", "Kind")


class Kind(StrEnum):
    """What can happen."""

    # by the publisher and whoever deals the blows
    SENT = "sent"
    KILLED = "killed"
    PAUSED = "paused"
    RESUMED = "resumed"
    DIED = "died"  # by nobody's order
    # in the workers, on both sides
    DELIVERED = "delivered"  # Celery hands a message to a pool process
    STARTED = "started"  # the body runs
    HELD = "held"  # the body waits for the blow that the plan has for it
    CHARGED = "charged"  # the effect
    LEFT = "left"  # Celery has the outcome of the delivery
    # in the workers, told by the library
    REPLAYED = "replayed"
    DEFERRED = "deferred"
    DROPPED = "dropped"
    LEASE_LOST = "lease lost"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: *run* names one delivery in one process."""

    kind: Kind
    payment: int
    run: str
    at: float  # seconds since 1970
    pid: int
    facts: dict[str, Any] = field(default_factory=dict)


class Journal:
    """
    A file to which every process of one side appends, one `write` per line.

    Args:
        path: The file; made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_to = 0

    def note(self, kind: Kind, payment: int, run: str = "", **facts: Any) -> None:
        """Append a line; *facts* are JSON values."""
        row = [kind, payment, run, time.time(), os.getpid(), facts]
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, f"{json.dumps(row)}\n".encode())
        finally:
            os.close(file)

    def news(self) -> list[Entry]:
        """Return the lines that were added since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            whole, _, _ = file.read().rpartition(b"\n")
        if not whole:
            return []
        self._read_to += len(whole) + 1
        return [_entry(json.loads(line)) for line in whole.split(b"\n")]


def _entry(row: list[Any]) -> Entry:
    kind, *rest = row
    return Entry(Kind(kind), *rest)
