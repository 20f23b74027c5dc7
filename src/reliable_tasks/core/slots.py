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

__all__ = ("DueAfter", "Slot", "dated", "is_common", "latest_due_ms", "spaced")

DueAfter = Callable[[int], int | None]
"""Gives the first due time after a moment, both in milliseconds since 1970; None: no more."""

STEP_MS = 60_000  # a crontab counts in minutes, so there is at most one more due time to walk to
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

    def past_due(moment_ms: int) -> int | None:
        due_ms = due_after(moment_ms)
        return due_ms if due_ms is not None and due_ms <= now_ms else None

    found_ms = past_due(since_ms)
    early_ms, late_ms = since_ms, now_ms
    while late_ms - early_ms > STEP_MS:
        middle_ms = (early_ms + late_ms) // 2
        due_ms = past_due(middle_ms)
        if due_ms is None:
            late_ms = middle_ms
        else:
            early_ms, found_ms = middle_ms, due_ms
    while found_ms is not None and (later_ms := past_due(found_ms) or 0) > found_ms:
        found_ms = later_ms
    return found_ms


def is_common(due_after: DueAfter, due_ms: int) -> bool:
    """Whether a due time is the same for whoever asks, and not counted from the asker's moment."""
    return all(due_after(due_ms - before_ms) == due_ms for before_ms in (1, 1_000))


def dated(due_ms: int, next_ms: int | None, now_ms: int, horizon_ms: int) -> Slot:
    """
    Return the firing of one due time.

    It is kept until the next is due, for till then a scheduler that comes late asks for this one,
    and one horizon more for a call that was held up on its way.
    """
    wait_ms = 0 if next_ms is None else max(0, next_ms - now_ms)
    return Slot(f"due {due_ms}", wait_ms + horizon_ms, is_dated=True)


def spaced(kind: str, wait_ms: int) -> Slot:
    """
    Return the firing of a schedule that counts from its last call, due again in *wait_ms*.

    The window ends a little before that, a tenth and at most a minute, so that neither a late
    call nor clocks that drift apart make the next one of the same scheduler a duplicate.
    """
    return Slot(f"every {kind}", wait_ms - min(wait_ms // 10, LARGEST_SLACK_MS), is_dated=False)
