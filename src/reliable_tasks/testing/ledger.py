"""Count effects in a place apart from the library and from its store."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ("LEDGER_VARIABLE", "Entry", "Ledger")

LEDGER_VARIABLE = "RELIABLE_TASKS_LEDGER"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a ledger."""

    job: str
    kind: str
    at: float  # seconds since the epoch, by the writer's clock
    pid: int
    details: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """
    A file to which any number of processes append one line per effect.

    A line is one `write` to a file opened for appending, so nothing is lost or
    mixed up when processes are killed: a line is there as a whole, or the
    effect did not happen.

    Args:
        path: The file; made with the first line.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def from_environment(cls) -> Ledger:
        """
        The ledger that the session handed to this process.

        Raises:
            LookupError: The variable ``RELIABLE_TASKS_LEDGER`` is not set.
        """
        path = os.environ.get(LEDGER_VARIABLE)
        if not path:
            raise LookupError(f"{LEDGER_VARIABLE} is not set: pass env=ledger.env to the worker")
        return cls(path)

    @property
    def env(self) -> dict[str, str]:
        """What to add to a worker's environment, so that it finds this ledger."""
        return {LEDGER_VARIABLE: str(self.path)}

    def effect(self, job: object, **details: Any) -> None:
        """Note that *job* took effect once more; *details* must be JSON values."""
        self.write("effect", job, **details)

    def write(self, kind: str, job: object, **details: Any) -> None:
        """Note anything else about *job*, for example that it started."""
        row = [str(job), kind, time.time(), os.getpid(), details]
        # The leading line feed keeps a line apart from one that a kill cut off.
        line = f"\n{json.dumps(row)}\n".encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All lines in the order of writing, or those of one *kind*."""
        return [entry for entry in self._read() if kind is None or entry.kind == kind]

    def counts(self, kind: str = "effect") -> Counter[str]:
        """How often each job has a line of *kind*; 0 for a job that has none."""
        return Counter(entry.job for entry in self.entries(kind))

    def _read(self) -> Iterator[Entry]:
        if not self.path.exists():
            return
        for line in self.path.read_text().splitlines():
            try:
                job, kind, at, pid, details = json.loads(line)
            except ValueError:
                continue  # empty, being written, or cut off by a kill
            yield Entry(job, kind, at, pid, details)
