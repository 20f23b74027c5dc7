"""A thread that stands still before each step until it is told to go on."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ("Killed", "Steps")

PATIENCE = 60.0  # seconds of real time that one step may take


class Killed(BaseException):
    """The process is dead: nothing that it still tries to do happens."""


class Steps:
    """
    Runs *work* in a thread, step by step.

    The work calls `stop_before` with the name of each thing that it is about to do.

    Attributes:
        ahead: The step before which it stands; nothing once it has ended.
    """

    def __init__(self, work: Callable[[Steps], None]) -> None:
        self.ahead = "start"
        self.is_over = False
        self._killed = False
        self._error: BaseException | None = None
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[Steps], None]) -> None:
        self._go.acquire()
        try:
            if not self._killed:
                work(self)
        except Killed:
            pass
        except BaseException as error:
            self._error = error
        self.ahead, self.is_over = "", True
        self._stands.release()

    def stop_before(self, step: str) -> None:
        """Stand still; from within the thread."""
        if self._killed:
            raise Killed
        self.ahead = step
        self._stands.release()
        self._go.acquire()
        if self._killed:
            raise Killed

    def go(self) -> None:
        """Let it take one step and wait until it stands again."""
        self._go.release()
        if not self._stands.acquire(timeout=PATIENCE):
            raise TimeoutError(f"the step {self.ahead!r} does not end")
        if self._error is not None:
            raise self._error

    def kill(self) -> None:
        """End it where it stands."""
        if not self.is_over:
            self._killed = True
            self.go()
        self._thread.join(PATIENCE)
