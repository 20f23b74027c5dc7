"""What a clock is to this library."""

from __future__ import annotations

from typing import Protocol

__all__ = ("Clock",)


class Clock(Protocol):
    """A source of wall time that can be replaced in tests."""

    def now_us(self) -> int:
        """Return microseconds since 1970."""
        ...
