"""
Which firing of a schedule entry a scheduler's call is (pure).

Any number of schedulers may keep one schedule, each with a clock and a start of its own. Two
kinds of schedules tell differently which of their calls are the same firing:

- *dated*: the due times follow from the calendar (a crontab), so every scheduler finds the same
  ones, and the due time is the name of the firing.
- *spaced*: each scheduler counts from its own last call (every ten seconds), so there are no
  common due times. A firing is the first call after a window that the firing before it opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ("DueAfter", "Slot", "dated", "latest_due_ms", "spaced")

DueAfter = Callable[[int], int]
"""Gives the first due time after a moment, both in milliseconds since 1970."""

LEAST_GAP_MS = 60_000  # between two due times: a crontab counts in minutes
LARGEST_SLACK_MS = 60_000


@dataclass(frozen=True, slots=True)
class Slot:
    """
    One firing of a schedule entry.

    Args:
        name: Equal for all schedulers that make this firing; with *is_dated* of no other firing.
        keep_ms: Calls of the same name are duplicates for this long from the first.
        is_dated: Whether the name holds the due time.
    """

    name: str
    keep_ms: int
    is_dated: bool


def latest_due_ms(due_after: DueAfter, since_ms: int, now_ms: int) -> int | None:
    """
    Return the last due time up to *now_ms*; None if there is none after *since_ms*.

    A scheduler that was stopped or paused makes up for all that it missed with one call. That
    call is the last firing that was due, which another scheduler may have made long ago.
    """
    if due_after(since_ms) > now_ms:
        return None
    early_ms, late_ms = since_ms, now_ms
    while late_ms - early_ms > LEAST_GAP_MS:
        middle_ms = (early_ms + late_ms) // 2
        if due_after(middle_ms) <= now_ms:
            early_ms = middle_ms
        else:
            late_ms = middle_ms
    return due_after(early_ms)


def dated(due_ms: int, next_ms: int, now_ms: int, horizon_ms: int) -> Slot:
    """
    Return the firing of one due time.

    It is kept until the next is due, for till then a scheduler that comes late asks for this one,
    and one horizon more for a call that was held up on its way.
    """
    return Slot(f"due {due_ms}", max(0, next_ms - now_ms) + horizon_ms, is_dated=True)


def spaced(kind: str, wait_ms: int) -> Slot:
    """
    Return the firing of a schedule that counts from its last call, due again in *wait_ms*.

    The window ends a little before that, a tenth and at most a minute, so that neither a late
    call nor clocks that drift apart make the next one of the same scheduler a duplicate.
    """
    return Slot(f"every {kind}", wait_ms - min(wait_ms // 10, LARGEST_SLACK_MS), is_dated=False)
