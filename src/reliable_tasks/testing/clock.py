"""A clock that stands still until a test moves it."""

from __future__ import annotations

__all__ = ("ManualClock",)


class ManualClock:
    """
    A `Clock` for tests without sleeping.

    Args:
        now: Seconds since 1970 at which it starts.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now_us = round(now * 1_000_000)

    def now_us(self) -> int:
        """Return microseconds since 1970."""
        return self._now_us

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass; a negative number sets the clock back, as operators do."""
        self._now_us += round(seconds * 1_000_000)
