"""A thread that writes lines to the store, and gives up rather than hold anything up."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from threading import Event, Thread
from time import monotonic, sleep, time
from typing import Any

from reliable_tasks.core.keys import flight_key
from reliable_tasks.core.store import Store
from reliable_tasks.processes import numbering

__all__ = ("LINES_PER_JOB", "Tape")

logger = logging.getLogger("reliable_tasks")

LINES_PER_JOB = 64
MOST_WAITING = 10_000  # lines
LINES_AT_ONCE = 200
LINGER = 0.05  # seconds; what comes meanwhile is written at one waking of the thread
FINISH_SECONDS = 1.0
PAUSE_AFTER_ERROR = 1.0


class Tape:
    """
    The lines of one process.

    Args:
        open_store: Returns the store; called by the thread.
        prefix: First part of the names in the store.
        keep_ms: How long a job's lines are kept after the last of them.
    """

    def __init__(self, open_store: Callable[[], Store], prefix: str, keep_ms: int) -> None:
        self._open_store, self._prefix, self._keep_ms = open_store, prefix, keep_ms
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Start empty: in a forked child, what waits is its parent's."""
        self._waiting: deque[tuple[float, str, str, str, Mapping[str, Any]]] = deque()
        self._wake = Event()
        self._thread: Thread | None = None
        self._has_warned = False
        self._place = ""

    def note(
        self,
        task_id: str,
        event: str,
        where: str,
        details: Mapping[str, Any],
        at: float | None = None,
    ) -> None:
        """
        Have a line written soon, or dropped.

        Args:
            task_id: The job.
            event: What happened.
            where: The node; empty: this process.
            details: What JSON can carry.
            at: When it happened, in seconds since 1970; now if left out.
        """
        if len(self._waiting) >= MOST_WAITING:
            self.give_up(f"{MOST_WAITING:,} lines wait to be written")
            return
        self._waiting.append((time() if at is None else at, task_id, event, where, details))
        if self._thread is None:
            self._start()
        if not self._wake.is_set():
            self._wake.set()

    def give_up(self, why: object) -> None:
        """Say once in a process that lines are missing."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning("the flight recorder drops lines, said once: %s", why)

    def finish(self) -> None:
        """Write what waits, if that goes quickly, before the process ends."""
        if not self._has_warned:
            self._write(monotonic() + FINISH_SECONDS)

    def _start(self) -> None:
        self._thread = Thread(target=self._run, name="reliable-tasks-flight", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            sleep(LINGER)
            self._wake.clear()
            if not self._write(None):
                sleep(PAUSE_AFTER_ERROR)

    def _write(self, until: float | None) -> bool:
        """Write what waits; returns whether the store took it."""
        while self._waiting and (until is None or monotonic() < until):
            try:
                lines = list(self._next_lines())
                self._open_store().jot_each(lines, most=LINES_PER_JOB, keep_ms=self._keep_ms)
            except Exception as error:  # nothing that goes wrong here may reach a job
                self.give_up(error)
                self._waiting.clear()
                return False
        return True

    def _next_lines(self) -> Iterator[tuple[str, bytes]]:
        """Take lines from those that wait, each with the name of its list."""
        for _ in range(LINES_AT_ONCE):
            try:
                at, task_id, event, where, details = self._waiting.popleft()
            except IndexError:
                return
            line = [round(at, 3), event, where or self._here(), details]
            text = json.dumps(line, separators=(",", ":"), default=str)
            yield flight_key(self._prefix, task_id), text.encode()

    def _here(self) -> str:
        if not self._place:
            self._place = numbering.worker or f"{socket.gethostname()} (process {os.getpid()})"
        return self._place
