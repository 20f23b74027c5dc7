"""Durations: converted once at the door, and the waits of the protocol (pure)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from reliable_tasks.errors import ConfigurationError

__all__ = (
    "HOPS_PER_REPLACEMENT",
    "HOPS_PER_REPLAY",
    "Seconds",
    "outage_wait_ms",
    "to_ms",
    "turn_wait_ms",
)

Seconds = float | int | timedelta

HOPS_PER_REPLACEMENT = 1_000
"""A task that replaces itself is so far ahead that no deferred copy of it is as far."""

HOPS_PER_REPLAY = 100_000
"""What an operator replays is so far ahead that no copy is as far, though deferred for weeks."""

FIRST_TURN_MS = 1_000
FIRST_NEWER_MS, LONGEST_NEWER_MS = 200, 2_000
FIRST_OUTAGE_MS, LONGEST_OUTAGE_MS = 1_000, 60_000
AFTER_THE_END_MS = 50  # a lease that ends in 3 ms is not over in 3 ms on every clock


def to_ms(option: str, value: Seconds, *, least: float) -> int:
    """
    Convert seconds or a timedelta to milliseconds.

    Args:
        option: Name of the option, for the error.
        value: What the user wrote.
        least: Smallest value allowed, in seconds.

    Raises:
        ConfigurationError: *value* is no duration or below *least*.
    """
    seconds: Any = value.total_seconds() if isinstance(value, timedelta) else value
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not least <= seconds < 1e10:
        raise ConfigurationError(
            f"{option}: expected seconds (a number or a timedelta) of at least {least:g}, "
            f"got {value!r}"
        )
    milliseconds: int = round(seconds * 1_000)
    return milliseconds


def turn_wait_ms(
    remaining_ms: int,
    hop: int,
    *,
    lease_ms: int,
    newer: bool = False,
    longest_ms: int | None = None,
) -> int:
    """
    Return how long a deferred message waits before it asks again.

    It doubles with each *hop* from 1 s, so that a short job is not waited for
    long, up to what remains of the holder's lease, never beyond one lease nor
    *longest_ms*. A *newer* message of the running job itself waits only for the
    settle that is under way: 0.2 s, doubling, at most 2 s.
    """
    hop %= HOPS_PER_REPLACEMENT
    if newer:
        return min(FIRST_NEWER_MS * (1 << min(hop, 10)), LONGEST_NEWER_MS)
    wait_ms = min(remaining_ms, lease_ms, FIRST_TURN_MS * (1 << min(hop, 30)))
    return min(wait_ms + AFTER_THE_END_MS, longest_ms or wait_ms + AFTER_THE_END_MS)


def outage_wait_ms(hop: int, *, longest_ms: int | None = None) -> int:
    """Return the wait of a message that found no store: 1 s, doubling, at most 60 s."""
    wait_ms = min(FIRST_OUTAGE_MS * (1 << min(hop, 10)), LONGEST_OUTAGE_MS)
    return min(wait_ms, longest_ms or wait_ms)
