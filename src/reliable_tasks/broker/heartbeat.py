"""The thread that keeps what a worker holds from being delivered again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from time import monotonic
from typing import Protocol

from reliable_tasks.broker.holdings import Holdings, Plan, interval_of, plan

__all__ = ("Hands", "Heartbeat", "Index")

logger = logging.getLogger("reliable_tasks")

RETRY_SECONDS = 1.0
STOP_SECONDS = 2.0  # for a beat that is under way


class Index(Protocol):
    """Where the broker keeps when each delivery was last heard of."""

    def visibility_timeout(self) -> float:
        """Return the seconds after which a delivery that was not heard of is made again."""

    def refresh(self, tags: Collection[str]) -> None:
        """Say that the deliveries *tags* are held."""

    def close(self) -> None:
        """Close the connection; the next call opens another."""


class Hands(Protocol):
    """What a worker holds."""

    def holdings(self, *, silent_for: float) -> Holdings:
        """Return it as it is now."""

    def ask_loop(self, answer: Callable[[], None]) -> None:
        """Have the loop of the worker's consumer call *answer*."""


class Heartbeat:
    """
    Says at the broker, a few times in each visibility timeout, what a worker holds.

    Args:
        hands: The worker's.
        index: The broker's.
        clock: Seconds that only rise.
    """

    def __init__(
        self, hands: Hands, index: Index, *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._hands, self._index, self._clock = hands, index, clock
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._fails = False
        self._through_at: float | None = None
        self._loop_turned = True
        self._silent_for = 0.0
        self._last = Plan(frozenset(), {})

    def start(self) -> None:
        """Begin to beat, unless it does so already."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="reliable-tasks-heartbeat", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End for good. What is held from now on is delivered again after the timeout."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        pause = 0.0
        while not self._stopped.wait(pause):
            pause = self.beat()
        self._index.close()

    def beat(self) -> float:
        """
        Say once what is held.

        Returns:
            Seconds until the next beat; few after one that did not get through.
        """
        try:
            timeout = self._index.visibility_timeout()
            found = plan(self._hands.holdings(silent_for=self._silence), self._clock())
            if found.tags:
                self._index.refresh(found.tags)
        except Exception as error:  # the thread must outlive a fault in one beat
            return self._note_failure(error)
        interval = interval_of(timeout)
        self._note_success(len(found.tags), timeout)
        self._tell(found)
        self._watch_loop(interval)
        return interval

    def _note_failure(self, error: Exception) -> float:
        if not self._fails:
            self._fails = True
            logger.warning("the visibility heartbeat does not reach the broker: %r", error)
        self._index.close()
        return RETRY_SECONDS

    def _note_success(self, held: int, timeout: float) -> None:
        """Say if it took so long that others may have what is held; a pause counts as well."""
        now = self._clock()
        before, self._through_at = self._through_at, now
        silence = 0.0 if before is None else now - before
        if held and silence > timeout:
            logger.warning(
                "the visibility heartbeat was silent for %.1f s, longer than the visibility "
                "timeout of %g s: others may have got what this worker holds (%d deliveries)",
                silence,
                timeout,
                held,
            )
        elif self._fails:
            logger.info("the visibility heartbeat reaches the broker again")
        self._fails = False

    def _tell(self, found: Plan) -> None:
        """Say once of each job that it is let go, and why."""
        before, self._last = self._last, found
        for tag in found.overdue.keys() - before.overdue.keys():
            logger.warning(
                "%s runs past its time limit: its message is held no longer, and is delivered "
                "again after the visibility timeout",
                found.overdue[tag],
            )
        if found.is_stuck and not before.is_stuck:
            logger.error(
                "the worker's loop has not turned for %.0f s: its messages are held no longer, "
                "and go to others after the visibility timeout. Restart this worker.",
                self._silence,
            )

    @property
    def _silence(self) -> float:
        return 0.0 if self._loop_turned else self._silent_for

    def _watch_loop(self, interval: float) -> None:
        """Count the beats in which the loop has not turned: a pause of all is not its fault."""
        self._silent_for = self._silence + interval
        self._loop_turned = False
        self._hands.ask_loop(self._note_turn)

    def _note_turn(self) -> None:
        self._loop_turned = True
