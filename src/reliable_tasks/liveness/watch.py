"""The thread that writes, every two seconds, how a worker gets on."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from _reliable_tasks.report import INTERVAL, Report, erase, erase_forgotten, write
from reliable_tasks.liveness.sample import MOST_NAMES, Sample, hangs, idle_since

__all__ = ("Hands", "Watch")

logger = logging.getLogger("reliable_tasks")

STOP_SECONDS = 2.0  # for a report that is being written


class Hands(Protocol):
    """What a worker holds, and its main loop."""

    def sample(self) -> Sample:
        """Return what it has now."""

    def ask_loop(self, answer: Callable[[], None]) -> None:
        """Have the main loop call *answer*; it may forget it."""


class Watch:
    """
    Reports how a worker gets on.

    Args:
        hands: The worker's.
        node: Its name.
        path: The file of its reports.
        clock: Reads the system's monotonic clock.
    """

    def __init__(
        self, hands: Hands, node: str, path: str, *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._hands, self._node, self._path, self._clock = hands, node, path, clock
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._turned_at = clock()
        self._lost_at: float | None = self._turned_at
        self._before: Sample | None = None
        self._idle_since: float | None = None
        self._fails = False

    def start(self) -> None:
        """Begin to report."""
        erase_forgotten(os.path.dirname(self._path))  # noqa: PTH120 - a text, as the probe has it
        self._thread = threading.Thread(
            target=self._run, name="reliable-tasks-liveness", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End, and leave no report."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
            erase(self._path)

    def connected(self) -> None:
        """Note that the worker has its broker; called by the main loop."""
        self._turned_at, self._lost_at = self._clock(), None

    def lost(self) -> None:
        """Note that it has lost it."""
        if self._lost_at is None:
            self._lost_at = self._clock()

    def _run(self) -> None:
        pause = 0.0
        while not self._stopped.wait(pause):
            pause = INTERVAL
            try:
                self._report_once()
            except Exception as error:  # the thread must outlive a fault in one report
                self._note_failure(error)

    def _report_once(self) -> None:
        self._hands.ask_loop(self._note_turn)
        write(self._path, self.report())
        self._fails = False

    def _note_turn(self) -> None:
        self._turned_at = self._clock()

    def _note_failure(self, error: Exception) -> None:
        if not self._fails:
            self._fails = True
            logger.warning("the worker's report for a liveness probe is not written: %s", error)

    def report(self) -> Report:
        """Return how the worker gets on."""
        now, sample = self._clock(), self._hands.sample()
        self._idle_since = idle_since(self._before, sample, self._idle_since, now)
        self._before = sample
        hung = [run.name for run in sample.runs if hangs(run, now)]
        return Report(
            node=self._node,
            pid=os.getpid(),
            written=now,
            loop=self._turned_at,
            lost=self._lost_at,
            closing=sample.is_closing,
            rests=sample.runs_in_loop and len(sample.runs) > len(hung),
            slots=sample.slots,
            busy=len(sample.runs),
            hung=len(hung),
            hung_jobs=hung[:MOST_NAMES],
            waiting=sample.waiting,
            idle_since=self._idle_since,
        )
