"""One resource closed in a thread of its own, so that one that hangs holds up nobody."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from typing import Any

__all__ = ("Closer",)


class Closer:
    """
    Closes one resource when told to, in a daemon thread that waits until then.

    The thread is there beforehand because since Python 3.12 none can be started while
    `atexit` functions run.

    Args:
        name: What the thread is called.
    """

    def __init__(self, name: str) -> None:
        self._told, self._done = Event(), Event()
        self._close: Callable[[Any], object] | None = None
        self._collected: Any = None
        self.error: BaseException | None = None
        Thread(target=self._run, name=f"reliable_tasks close {name}", daemon=True).start()

    def start(self, close: Callable[[Any], object], collected: Any) -> None:
        """Call *close* on what was *collected*."""
        self._close, self._collected = close, collected
        self._told.set()

    def wait(self, seconds: float) -> bool:
        """Wait until it is closed, or *error* says why not; False if that takes longer."""
        return self._done.wait(max(0.0, seconds))

    def _run(self) -> None:
        self._told.wait()
        try:
            if self._close is not None:
                self._close(self._collected)
        except BaseException as exc:
            self.error = exc
        self._done.set()
