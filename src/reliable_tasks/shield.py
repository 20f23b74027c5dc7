"""Soft time limits wait while the guard talks to the store."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

__all__ = ("SoftLimitShield", "limit_every_task")

logger = logging.getLogger("reliable_tasks")

_SIGNAL: Any = getattr(signal, "SIGUSR1", None)  # what billiard's pool sends for a soft time limit

_every_task_is_limited = False


def limit_every_task() -> None:
    """Know that this worker has a soft time limit of its own, which no task or message names."""
    global _every_task_is_limited
    _every_task_is_limited = True


class SoftLimitShield:
    """
    Holds back the soft time limit of a prefork child, except while the body runs.

    An exception out of the middle of a claim or a settle would leave nobody
    knowing what was recorded. Held back, it reaches the body when that starts;
    what comes after the body is dropped with a warning, for the job has ended.
    """

    __slots__ = ("_active", "_before", "_held")

    def __init__(self, *, active: bool) -> None:
        self._active, self._held = active, False
        self._before: Any = None

    @classmethod
    def of(cls, task: Any, request: Any) -> SoftLimitShield:
        """Return a shield that does anything only where a soft time limit can arrive."""
        soft = request.timelimit[1] if request.timelimit else None
        limited = soft or task.soft_time_limit or _every_task_is_limited
        can_arrive = bool(limited) and _SIGNAL is not None and not request.is_eager
        return cls(active=can_arrive and threading.current_thread() is threading.main_thread())

    def __enter__(self) -> None:
        self.raise_again()

    def __exit__(self, *_: object) -> None:
        if not self._active:
            return
        signal.signal(_SIGNAL, self._before)
        if self._held:
            logger.warning("a soft time limit came after the task's outcome and was dropped")

    def lower(self) -> None:
        """Let the limit through; one that was held back is raised here."""
        if not self._active:
            return
        signal.signal(_SIGNAL, self._before)
        if self._held and callable(self._before):
            self._held = False
            self._before(_SIGNAL, None)

    def raise_again(self) -> None:
        """Hold it back again."""
        if self._active:
            # A handler, not a mask: a signal that this thread blocks goes to another thread,
            # and Python then raises it here all the same.
            self._before = signal.signal(_SIGNAL, self._hold)

    def _hold(self, *_: object) -> None:
        self._held = True
