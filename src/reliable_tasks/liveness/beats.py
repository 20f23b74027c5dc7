"""Signs of life of the pool's processes, through a pipe that they inherit."""

from __future__ import annotations

import os
from time import monotonic

__all__ = ("Beats",)

_SIZE = 4  # bytes of a process id
_MOST = 65_536  # bytes that a pipe holds


class Beats:
    """
    When each process of a worker last gave a sign of life.

    Made in the main process before its pool forks. A pipe costs the children one write of four
    bytes, and needs neither a file of each nor a clearing up after those that were killed.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = os.pipe()
        os.set_blocking(self._receiver, False)
        os.set_blocking(self._sender, False)
        self._last: dict[int, float] = {}

    def beat(self) -> None:
        """Give a sign of life of this process; a pipe that is full or closed is no fault of it."""
        try:
            os.write(self._sender, os.getpid().to_bytes(_SIZE, "big"))
        except OSError:
            return

    def collect(self) -> dict[int, float]:
        """Return, by process id, when each process that ever beat was last heard of (monotonic)."""
        try:
            received = os.read(self._receiver, _MOST)
        except OSError:
            received = b""
        now = monotonic()
        for start in range(0, len(received), _SIZE):
            self._last[int.from_bytes(received[start : start + _SIZE], "big")] = now
        return self._last
