"""
Which process holds a job: deliveries are numbered by process, and a process says who it is.

A delivery's number is 40 random bits of its process and a count, so that a record alone tells who
runs its job. What stands behind the process's number is noted in the store, and again while it
lives, by the thread that renews leases.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Iterator
from typing import Any

from reliable_tasks.core.keys import process_key
from reliable_tasks.core.store import Store

__all__ = ("KEEP_MS", "Numbering", "introduce", "numbering", "process_of", "who")

PROCESS_BITS, COUNT_BITS = 40, 22
MOST = 1 << COUNT_BITS
KEEP_MS = 6 * 3_600_000  # one child a second, with --max-tasks-per-child 1, is 6 MB of them

_fresh = random.SystemRandom()  # never repeats itself, though a body may call random.seed()


class Numbering:
    """
    Numbers the deliveries of this process; a forked child takes a new number for itself.

    Attributes:
        process: The number of the process. It takes a new one after some four million deliveries.
        worker: The node's name, or nothing outside a worker.
    """

    process: int
    _numbers: Iterator[int]

    def __init__(self) -> None:
        self.worker = ""
        self.begin()
        os.register_at_fork(after_in_child=self.begin)

    def begin(self) -> None:
        """Take a new number for the process."""
        process = _fresh.getrandbits(PROCESS_BITS)
        first = process << COUNT_BITS
        self.process = process
        self._numbers = iter(range(first, first + MOST))
        self._started = time.time()

    def next(self) -> str:
        """Return a number that no other delivery has."""
        number = next(self._numbers, None)
        if number is None:
            self.begin()
            return self.next()
        return str(number)

    def introduction(self) -> bytes:
        """Return what the process says of itself."""
        return json.dumps(
            {
                "worker": self.worker,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "started": round(self._started, 3),
            }
        ).encode()


numbering = Numbering()
"""This process's."""


def introduce(store: Store, prefix: str) -> None:
    """
    Note in the store who this process is, for six hours.

    Raises:
        StoreUnavailable: The store did not answer.
    """
    key = process_key(prefix, numbering.process)
    store.jot(key, numbering.introduction(), most=1, keep_ms=KEEP_MS)


def process_of(delivery: str) -> int | None:
    """Return the number of the process that had a delivery, None if *delivery* is no number."""
    return int(delivery) >> COUNT_BITS if delivery.isdecimal() else None


def who(store: Store, prefix: str, delivery: str) -> dict[str, Any]:
    """
    Return what is known of the process that had a delivery: worker, pid, host, started.

    Nothing if it said nothing, or last said so more than six hours ago.

    Raises:
        StoreUnavailable: The store did not answer.
    """
    process = process_of(delivery)
    lines = [] if process is None else store.jottings(process_key(prefix, process))
    try:
        known = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}
