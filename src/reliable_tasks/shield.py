"""Soft time limits wait while the guard talks to the store."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

__all__ = ("SoftLimitShield",)

logger = logging.getLogger("reliable_tasks")

_SIGNAL: Any = getattr(signal, "SIGUSR1", None)  # what billiard's pool sends for a soft time limit


class SoftLimitShield:
    """
    Holds back the soft time limit of a prefork child, except while the body runs.

    An exception out of the middle of a claim or a settle would leave nobody
    knowing what was recorded. Held back, it reaches the body when that starts;
    what comes after the body is dropped with a warning, for the job has ended.
    """

    __slots__ = ("_active",)

    def __init__(self, *, active: bool) -> None:
        self._active = active

    @classmethod
    def of(cls, task: Any, request: Any) -> SoftLimitShield:
        """Return a shield that does anything only where a soft time limit can arrive."""
        soft = request.timelimit[1] if request.timelimit else None
        limited = soft or task.soft_time_limit
        can_arrive = bool(limited) and _SIGNAL is not None and not request.is_eager
        return cls(active=can_arrive and threading.current_thread() is threading.main_thread())

    def __enter__(self) -> None:
        if self._active:
            signal.pthread_sigmask(signal.SIG_BLOCK, {_SIGNAL})

    def __exit__(self, *_: object) -> None:
        if not self._active:
            return
        if _SIGNAL in signal.sigpending():
            signal.sigwait({_SIGNAL})
            logger.warning("a soft time limit came after the task's outcome and was dropped")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {_SIGNAL})

    def lower(self) -> None:
        """Let the limit through; one that was held back is raised here."""
        if self._active:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {_SIGNAL})

    def raise_again(self) -> None:
        """Hold it back again."""
        if self._active:
            signal.pthread_sigmask(signal.SIG_BLOCK, {_SIGNAL})
