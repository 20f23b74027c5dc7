"""How often what is rare has happened in all processes of a worker; `watch` asks for it."""

from __future__ import annotations

import mmap
import os
import threading
from typing import Any

from billiard.process import current_process

from reliable_tasks import signals

__all__ = ("COUNTS", "NAMES", "Counts", "begin", "told")

COUNTS = "reliable_tasks_counts"
"""Key of `celery inspect stats`."""

NAMES = (
    "replays", "deferrals", "duplicates", "lost_leases", "quarantines", "retries", "given_up",
    "dead_letters",
)  # fmt: skip

ROWS = 1_024  # processes; a page of memory is taken when it is first written
BYTES = 8


class Counts:
    """
    Numbers that a worker shares with the children that it forks.

    Each process has a row of its own, so that none waits for another. A child that replaces a
    dead one goes on with its row.
    """

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, ROWS * len(NAMES) * BYTES)).cast("Q")
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()  # of threads; another process has another row

    def add(self, name: str) -> None:
        """Count one more."""
        place = row_of(current_process()) * len(NAMES) + NAMES.index(name)
        with self._lock:
            self._numbers[place] += 1

    def totals(self) -> dict[str, int]:
        """Return the sums over all processes."""
        step = len(NAMES)
        return {name: sum(self._numbers[start::step]) for start, name in enumerate(NAMES)}


def row_of(process: Any) -> int:
    """Return the row of a process: 0 for the main one, then by the place in the pool."""
    return int(getattr(process, "index", -1) + 1) % ROWS


_counts: Counts | None = None


def begin() -> None:
    """Count from now on, here and in children that are forked later; more calls change nothing."""
    global _counts
    if _counts is not None:
        return
    _counts = counts = Counts()

    def listen(signal: Any, name: str) -> None:
        signal.connect(lambda **_: counts.add(name), weak=False, dispatch_uid=COUNTS)

    listen(signals.task_replayed, "replays")
    listen(signals.task_deferred, "deferrals")
    listen(signals.task_deduplicated, "duplicates")
    listen(signals.lease_lost, "lost_leases")
    listen(signals.task_quarantined, "quarantines")
    listen(signals.task_dead_lettered, "dead_letters")
    signals.task_retrying.connect(
        lambda wait, reason, **_: counts.add(kind_of_retry(wait, reason)),
        weak=False,
        dispatch_uid=COUNTS,
    )


def kind_of_retry(wait: float | None, reason: str | None) -> str:
    """Return under which name a `task_retrying` is counted; an open breaker defers a job."""
    if wait is None:
        return "given_up"
    return "retries" if reason is None else "deferrals"


def told() -> dict[str, int]:
    """Return what was counted since `begin`; nothing before it."""
    return {} if _counts is None else _counts.totals()
