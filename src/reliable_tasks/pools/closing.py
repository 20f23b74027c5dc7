"""One resource closed within a time limit, so that one that hangs holds up nobody."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, NoReturn

__all__ = ("Closer",)


class Closer:
    """
    Closes one resource in a daemon thread, from now on.

    Since Python 3.12 no thread can be started while `atexit` functions run. There it is closed
    at once, and an alarm interrupts what takes too long.

    Args:
        name: What the thread is called.
        close: Closes *resource*.
        resource: What *close* is given.
        seconds: Its limit.
    """

    def __init__(
        self, name: str, close: Callable[[Any], object], resource: Any, seconds: float
    ) -> None:
        self.error: BaseException | None = None
        self._close, self._resource, self._done = close, resource, Event()
        try:
            Thread(target=self._run, name=f"close {name}", daemon=True).start()
        except RuntimeError:
            with _alarm(seconds):
                self._run()

    def wait(self, seconds: float) -> bool:
        """Wait until it is closed, or *error* says why not; False if that takes longer."""
        return self._done.wait(max(0.0, seconds))

    def _run(self) -> None:
        try:
            self._close(self._resource)
        except BaseException as exc:
            self.error = exc
        self._done.set()


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread, where `atexit` functions run, after *seconds*."""

    def interrupt(*_: object) -> NoReturn:
        raise TimeoutError(f"it took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
